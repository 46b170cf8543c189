"""What a report says of the machine."""

from underpaint.bench.common.machine import Machine, versions
from underpaint.control.machine import cpu_count


def test_a_machine_is_described() -> None:
    machine = Machine.here(watch_s=0.05)
    assert machine.cpu and machine.cores == cpu_count() >= 1 and machine.busy_cores >= 0


def test_a_machine_is_quiet_when_others_leave_it_alone() -> None:
    assert Machine("cpu", 16, "Linux", busy_cores=0.4).quiet
    assert not Machine("cpu", 2, "Linux", busy_cores=1.9).quiet


def test_packages_that_are_not_installed_have_no_version() -> None:
    assert set(versions(["numpy", "no-such-package"])) == {"python", "numpy"}
