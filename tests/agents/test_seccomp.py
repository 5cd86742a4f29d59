"""The filter is run in an interpreter of classic BPF, on both architectures, call by call."""

import errno
import struct

import pytest

from interlock.agents.adapters import seccomp
from interlock.foundation.errors import BrokenWorldError

MACHINES = {"x86_64": seccomp.X86_64, "aarch64": seccomp.AARCH64}
NEWUSER, NEWNS = 0x1000_0000, 0x0002_0000


def answer(program, architecture, number, first=0):
    """Run the program as the kernel would: an accumulator, forward jumps, a return."""
    memory = struct.pack("<iIQ6Q", number, architecture, 0, first, 0, 0, 0, 0, 0)
    steps = list(struct.iter_unpack("<HBBI", program))
    position = accumulator = 0
    while True:
        code, if_true, if_false, value = steps[position]
        position += 1
        if code == 0x20:
            (accumulator,) = struct.unpack_from("<I", memory, value)
        elif code == 0x15:
            position += if_true if accumulator == value else if_false
        elif code == 0x35:
            position += if_true if accumulator >= value else if_false
        elif code == 0x45:
            position += if_true if accumulator & value else if_false
        elif code == 0x06:
            return value
        else:
            pytest.fail(f"unknown step {code:#x}")


@pytest.mark.parametrize("machine_name", MACHINES)
def test_every_refused_call_is_answered_and_every_other_one_is_let_through(machine_name):
    program, architecture = seccomp.filter_for(machine_name), MACHINES[machine_name]
    refused = {getattr(call, machine_name) for call in seccomp.REFUSED} - {None}
    absent = {getattr(call, machine_name) for call in (*seccomp.ABSENT, seccomp.CLONE3)}
    with_arguments = {getattr(call, machine_name) for call in (seccomp.CLONE, seccomp.SOCKET)}
    for number in range(600):
        got = answer(program, architecture, number)
        if number in refused:
            assert got == seccomp.ERRNO | errno.EPERM, number
        elif number in absent:
            assert got == seccomp.ERRNO | errno.ENOSYS, number
        elif number not in with_arguments:
            assert got == seccomp.ALLOW, number
    assert len(refused) > 40


@pytest.mark.parametrize("machine_name", MACHINES)
def test_a_new_user_namespace_and_every_socket_but_a_local_one_are_refused(machine_name):
    program, architecture = seccomp.filter_for(machine_name), MACHINES[machine_name]
    clone, socket = (getattr(call, machine_name) for call in (seccomp.CLONE, seccomp.SOCKET))
    assert answer(program, architecture, clone, 17) == seccomp.ALLOW
    assert answer(program, architecture, clone, 17 | NEWUSER | NEWNS) == seccomp.ERRNO | errno.EPERM
    # The kernel looks at the low half of a family only, and so does the filter.
    assert answer(program, architecture, socket, 1 << 32 | 2) == seccomp.ERRNO | errno.EAFNOSUPPORT
    assert answer(program, architecture, socket, 1) == seccomp.ALLOW
    for family in (0, 2, 10, 16, 17, 40):
        assert answer(program, architecture, socket, family) == seccomp.ERRNO | errno.EAFNOSUPPORT


@pytest.mark.parametrize("machine_name", MACHINES)
def test_another_architecture_is_killed(machine_name):
    program = seccomp.filter_for(machine_name)
    others = {seccomp.X86_64, seccomp.AARCH64, 0x4000_0003, 0} - {MACHINES[machine_name]}
    assert {answer(program, each, 1) for each in others} == {seccomp.KILL}


def test_the_second_table_of_x86_64_is_killed():
    program = seccomp.filter_for("x86_64")
    assert answer(program, seccomp.X86_64, 0x4000_0000 + 101) == seccomp.KILL
    assert answer(program, seccomp.X86_64, 0xFFFF_FFFF - (1 << 32)) == seccomp.KILL


def test_a_machine_without_a_filter_gets_no_sandbox():
    with pytest.raises(BrokenWorldError):
        seccomp.filter_for("riscv64")
