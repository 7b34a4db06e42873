"""A GPU that is not there: runs PTX on the CPU, behind a libcuda.so.1 that programs load as the real one.

library.load()            the driver, as a ctypes library
triton_device.emulated()  Triton's own driver and launch path on it, for CPU tensors
"""
