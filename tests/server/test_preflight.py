"""Whatever is missing is said in one sentence, before anything is started."""

import dataclasses
import socket
import sys

import pytest

from underpaint.server import __main__ as command_line
from underpaint.server import preflight
from underpaint.server.errors import PreflightError
from underpaint.server.options import MIB, ServerOptions
from underpaint.server.repository import ModelFolder, load_waves, read_models
from underpaint.server.runtime import Installation

from . import toys


@pytest.fixture
def repository(tmp_path):
    toys.python_model(tmp_path, "block", toys.BLOCKING)
    toys.python_model(tmp_path, "hold", toys.HOLDING, heartbeat="true")
    toys.ensemble(tmp_path, "pipeline", "block")
    return tmp_path


def options(repository, **changes):
    return ServerOptions(repository, **{"http_port": 0, "grpc_port": 0, "metrics_port": 0, **changes})


def complaint(repository, **changes):
    with pytest.raises(PreflightError) as caught:
        preflight.check(options(repository, **changes))
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_a_sound_repository_passes(repository):
    _, models = preflight.check(options(repository))
    assert [(model.name, model.backend, model.processes) for model in models] == [
        ("block", "python", 1),
        ("hold", "python", 1),
        ("pipeline", "ensemble", 0),
    ]


def test_patterns_select_models(repository):
    assert [model.name for model in read_models(repository, ["h*"])] == ["hold"]


def test_what_a_selected_model_needs_is_selected_too(repository):
    assert [model.name for model in read_models(repository, ["pipe*", "hold"])] == ["block", "hold", "pipeline"]


def test_what_others_load_when_they_need_it_is_left_to_them(repository):
    toys.python_model(repository, "later", toys.BLOCKING, on_demand="true")
    assert "later" not in [model.name for model in read_models(repository, ["*"])]
    assert [model.name for model in read_models(repository, ["later"])] == ["later"]


def test_no_repository(tmp_path):
    assert "there is no model repository at" in complaint(tmp_path / "nowhere")


def test_no_model_of_that_name(repository):
    assert complaint(repository, load_models=("blcok",)).startswith("no model matches 'blcok'")


def test_a_port_in_use(repository):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        message = complaint(repository, grpc_port=port)
    assert f"grpc port {port} on 127.0.0.1 is in use" in message and "--grpc-port" in message


def test_the_same_port_twice(repository):
    assert "must differ" in complaint(repository, http_port=18099, grpc_port=18099)


def test_a_host_that_is_not_ours(repository):
    assert "cannot listen on 203.0.113.1" in complaint(repository, host="203.0.113.1")


def test_no_config(repository):
    (repository / "block" / "config.pbtxt").unlink()
    assert "has no config.pbtxt" in complaint(repository)


def test_a_config_that_is_no_config(repository):
    (repository / "block" / "config.pbtxt").write_text("max_batch_size: many")
    assert "cannot be read: 1:17" in complaint(repository)


def test_a_config_of_another_name(repository):
    config = repository / "block" / "config.pbtxt"
    config.write_text('name: "other"\n' + config.read_text())
    assert "names its model 'other'" in complaint(repository)


def test_no_version(repository):
    (repository / "pipeline" / "1").rmdir()
    assert "model pipeline has no version folder" in complaint(repository)


def test_no_model_file(repository):
    (repository / "block" / "1" / "model.py").unlink()
    assert "model block has no model.py in" in complaint(repository)


def test_a_backend_that_is_not_there(repository):
    (repository / "block" / "config.pbtxt").write_text('backend: "tensorrt"')
    assert "model block needs the backend tensorrt" in complaint(repository)


def test_too_little_shared_memory(repository):
    models = read_models(repository, ["*"])
    preflight.check_shared_memory(models, MIB, free_bytes=20 * MIB)
    with pytest.raises(PreflightError, match="has 19 MiB free, 2 model processes need 20 MiB: enlarge it"):
        preflight.check_shared_memory(models, MIB, free_bytes=20 * MIB - 1)


@pytest.mark.parametrize(
    ("system", "machine", "python", "says"),
    [
        ("darwin", "arm64", (3, 11), "this is darwin on arm64"),
        ("linux", "riscv64", (3, 11), "this is linux on riscv64"),
        ("linux", "x86_64", (3, 13), "this is 3.13"),
        ("linux", "x86_64", (3, 9), "this is 3.9"),
    ],
)
def test_a_platform_that_is_not_supported(system, machine, python, says):
    with pytest.raises(PreflightError, match=says):
        preflight.check_platform(system, machine, python)


def test_no_wheel():
    with pytest.raises(PreflightError, match="pip install"):
        preflight.check_installation(None)


def test_no_libpython():
    installation = Installation.locate()
    assert installation is not None
    with pytest.raises(PreflightError, match=r"libpython3\.\d+\.so\.1\.0 is missing"):
        preflight.check_installation(dataclasses.replace(installation, libpython=None))


def folder(name, *children):
    return ModelFolder(name, None, "ensemble" if children else "python", "", 1, children)


def test_ensembles_are_loaded_after_their_parts():
    models = [folder("a", "b", "c"), folder("b", "c", "elsewhere"), folder("c"), folder("d")]
    assert [[model.name for model in wave] for wave in load_waves(models)] == [["c", "d"], ["b"], ["a"]]


def test_ensembles_in_a_circle():
    with pytest.raises(PreflightError, match="a, b need one another"):
        load_waves([folder("a", "b"), folder("b", "a"), folder("c")])


def test_the_command_ends_in_one_sentence(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["underpaint", "serve", "--model-repository", str(tmp_path / "nowhere")])
    assert command_line.main() == 2
    assert capsys.readouterr().err.startswith("underpaint: there is no model repository at")


def test_the_command_lines_can_be_printed(repository, monkeypatch, capsys):
    words = ["serve", "--model-repository", str(repository), "--load-model", "p*", "--http-port", "9000"]
    monkeypatch.setattr(sys, "argv", ["underpaint", *words, "--print-command"])
    assert command_line.main() == 0
    _, native, _, container = capsys.readouterr().out.splitlines()
    for line in (native, container):
        assert "--load-model=pipeline" in line
        assert "--model-control-mode=explicit --disable-auto-complete-config" in line
    assert native.startswith(f"tritonserver --model-repository={repository}") and "--http-port=9000" in native
    assert container.startswith("docker run") and "-p127.0.0.1:9000:8000" in container
    assert "--shm-size=" in container and "/src[serve]" in container and f"-v{repository}:/models:ro" in container


def test_the_command_lines_name_the_store(repository, monkeypatch, capsys):
    words = ["serve", "--model-repository", str(repository), "--store", "/srv/paintings", "--print-command"]
    monkeypatch.setattr(sys, "argv", ["underpaint", *words])
    assert command_line.main() == 0
    _, native, _, container = capsys.readouterr().out.splitlines()
    assert native.startswith("env UNDERPAINT_STORE=/srv/paintings tritonserver ")
    assert "-v/srv/paintings:/cache -eUNDERPAINT_STORE=/cache" in container
