"""When dead models are reloaded, and when not any more: plain values."""

import pytest

from underpaint.server.policy import ModelTraits, OnDeath, Pulse, RestartLimits, Stub, StubWatch, restart_delay_s

LIMITS = RestartLimits(burst=3, window_s=100.0, first_delay_s=1.0, max_delay_s=3.0)


@pytest.mark.parametrize(
    ("deaths", "delay_s"),
    [
        ([5.0], 0.0),
        ([5.0, 6.0], 1.0),
        ([5.0, 6.0, 7.0], 2.0),
        ([5.0, 6.0, 7.0, 8.0], None),
        ([5.0, 200.0], 0.0),
        ([5.0, 6.0, 7.0, 107.5], 0.0),
        ([5.0, 6.0, 7.0, 106.5], 1.0),
    ],
)
def test_restarts_come_later_and_later_and_then_stop(deaths, delay_s):
    assert restart_delay_s(deaths, LIMITS) == delay_s


def test_the_delay_is_bounded():
    limits = RestartLimits(burst=100, first_delay_s=1.0, max_delay_s=3.0)
    assert restart_delay_s([float(n) for n in range(50)], limits) == 3.0


def test_a_stub_is_dead_when_defunct_in_two_looks():
    watch = StubWatch()
    alive, defunct = Stub(7, "unet_0_0", defunct=False), Stub(7, "", defunct=True)
    assert watch.look([alive]) == []
    assert watch.look([defunct]) == []
    assert watch.look([defunct]) == [Stub(7, "unet_0_0", defunct=True)]
    assert watch.look([defunct]) == [Stub(7, "unet_0_0", defunct=True)]
    watch.bury(7)
    assert watch.look([defunct]) == []


def test_a_stub_that_was_unloaded_is_not_dead():
    watch = StubWatch()
    assert watch.look([Stub(7, "unet_0_0", defunct=False)]) == []
    assert watch.look([Stub(7, "", defunct=True)]) == [], "about to be reaped"
    assert watch.look([]) == []


def test_a_process_that_was_never_seen_alive_is_nobodys():
    watch = StubWatch()
    assert [watch.look([Stub(7, "", defunct=True)]) for _ in range(3)] == [[], [], []]


def test_two_misses_in_a_row_mean_hung():
    pulse = Pulse()
    beats = [False, True, False, False, False]
    assert [pulse.beat("generate", answered) for answered in beats] == [False, False, False, True, False]


def test_models_have_pulses_of_their_own():
    pulse = Pulse()
    assert [pulse.beat(model, answered=False) for model in ("a", "b", "a")] == [False, False, True]


def config(decoupled=False, **parameters):
    return {
        "name": "unet",
        "instance_group": [{"name": "unet_0"}, {"name": "spare"}],
        "model_transaction_policy": {"decoupled": decoupled},
        "parameters": {key: {"string_value": value} for key, value in parameters.items()},
    }


@pytest.mark.parametrize(
    ("model", "on_death"),
    [
        (config(), OnDeath.RELOAD),
        (config(decoupled=True), OnDeath.RESTART_SERVER),
        (config(heartbeat="true"), OnDeath.RESTART_SERVER),
        (config(heartbeat="true", on_death="reload"), OnDeath.RELOAD),
        (config(on_death="restart_server"), OnDeath.RESTART_SERVER),
        (config(on_death="nonsense"), OnDeath.RELOAD),
    ],
)
def test_what_a_death_calls_for(model, on_death):
    assert ModelTraits.of_config(model).on_death is on_death


def test_stubs_belong_to_the_model_of_their_instance_group():
    traits = ModelTraits.of_config(config())
    owned = {
        name: traits.owns(name) for name in ("unet_0_0", "unet_0_11", "spare_1", "unet_0", "unet_1_0", "xunet_0_0")
    }
    assert [name for name, is_ours in owned.items() if is_ours] == ["unet_0_0", "unet_0_11", "spare_1"]
