#!/usr/bin/env python3
"""Puts programs that do nothing on the raw tracepoints of system calls while a command runs: what the kernel itself takes for
being watched. Usage: empty_bpf.py COMMAND..."""
import ctypes, os, struct, subprocess, sys

SYS_BPF = 321  # x86-64
PROG_LOAD, RAW_TRACEPOINT_OPEN, RAW_TRACEPOINT = 5, 17, 17
libc = ctypes.CDLL(None, use_errno=True)


def bpf(command, attributes):
    buffer = ctypes.create_string_buffer(attributes.ljust(128, b"\0"), 128)
    fd = libc.syscall(SYS_BPF, command, buffer, 128)
    if fd < 0:
        sys.exit(f"bpf({command}): {os.strerror(ctypes.get_errno())}")
    return fd


code = ctypes.create_string_buffer(struct.pack("<QQ", 0xB7, 0x95), 16)  # r0 = 0; exit
licence = ctypes.create_string_buffer(b"GPL")
program = bpf(PROG_LOAD, struct.pack("<IIQQ", RAW_TRACEPOINT, 2, ctypes.addressof(code), ctypes.addressof(licence)))
held = []
for name in (b"sys_enter", b"sys_exit"):
    text = ctypes.create_string_buffer(name)
    held.append(bpf(RAW_TRACEPOINT_OPEN, struct.pack("<QI", ctypes.addressof(text), program)))
sys.exit(subprocess.call(sys.argv[1:]))
