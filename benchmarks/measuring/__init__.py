"""How it is measured: contenders, clocks, the gate that a wrong result does not pass, processes that survive."""
