"""The page of the kernels says what the records say."""

from pathlib import Path

import torch

from convext.commands import kernel_table
from convext.providers import onednn

PAGE = Path(__file__).parents[2] / "docs" / "kernels.md"


def test_table_of_kernels_is_the_records(monkeypatch) -> None:
    """After a change of kernels: paste the output of `python -m convext info --kernels` between the markers.

    The page is of processors for which oneDNN computes bfloat16. On others the command says what they lack.
    """
    monkeypatch.setattr(onednn, "dtypes", lambda: frozenset({torch.float32, torch.bfloat16}))
    table = PAGE.read_text().split("<!-- kernels -->")[1].split("<!-- /kernels -->")[0]
    assert table.strip() == kernel_table.markdown()


def test_without_bfloat16_in_onednn_one_record_takes_less(monkeypatch) -> None:
    monkeypatch.setattr(onednn, "dtypes", lambda: frozenset({torch.float32}))
    page = PAGE.read_text().splitlines()
    fewer = [line for line in kernel_table.markdown().splitlines() if line not in page]
    assert fewer == [f"| `plain.swap` | {face} | all | all | float32 | all |" for face in ("fprop", "dgrad")]
