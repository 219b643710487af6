"""Code in C++ that is compiled when it is first needed and called through ctypes."""

from neuro.spiking.native.compiler import CompileFailed, CompilerMissing, library

__all__ = ["CompileFailed", "CompilerMissing", "library"]
