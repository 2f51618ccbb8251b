"""``worker check``: what it looks at, what it calls a fault; it spends and keeps nothing."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import httpx
import pytest

from shared.federation.specification import FederationSpecification
from shared.rest.problems import ProblemType
from tests.support.fake_coordinator import FakeCoordinator, problem
from tests.support.hosted_clients import first_state, worker_config
from tests.support.random_clients import IMAGE_SHAPE, tiny_plan
from tests.support.specifications import tiny_specification
from tests.support.tiny_images import write_images
from worker.data.source import DataSource
from worker.errors import ConfigError
from worker.methods.hyperfl import HyperFL
from worker.operations.check import check
from worker.operations.check_rows import Row, Verdict
from worker.operations.specification import build_specification
from worker.settings import WorkerConfig, WorkerSettings
from worker.site import best_version, history, private_state

CPU = WorkerSettings(device="cpu")


@pytest.fixture
def coordinator() -> FakeCoordinator:
    made = FakeCoordinator(tiny_specification())
    made.headers["Date"] = format_datetime(datetime.now(UTC), usegmt=True)
    return made


@pytest.fixture
def config(tmp_path: Path) -> WorkerConfig:
    """Of alice, whose three classes lie in a folder."""
    write_images(tmp_path / "images", 3, side=4, train_examples=12, test_examples=6)
    source = DataSource(dataset="image-folder", data_dir=tmp_path / "images")
    made = worker_config(tmp_path, "tiny", "alice")
    clients = tuple(client.model_copy(update={"data": source}) for client in made.clients)
    return made.model_copy(update={"clients": clients, "allowed_imports": ("tests",)})


async def rows(coordinator: FakeCoordinator, config: WorkerConfig, **options: object) -> list[Row]:
    return await check(config, CPU, transport=coordinator.transport, **options)  # type: ignore[arg-type]


def enrol(config: WorkerConfig) -> None:
    (folder := config.clients[0].state_dir).mkdir()
    (folder / "credential").write_text("credential-of-alice\n")


def of(found: list[Row], name: str) -> list[tuple[Verdict, str]]:
    return [(row.verdict, row.detail) for row in found if row.check == name]


async def test_a_client_that_is_not_enrolled_is_looked_at_and_spends_no_token(
    coordinator: FakeCoordinator, config: WorkerConfig
) -> None:
    found = await rows(coordinator, config)
    said = [(row.check, row.client) for row in found if row.verdict is Verdict.OK]
    assert said == [
        ("device", ""),
        ("coordinator", ""),
        ("protocol", ""),
        ("clock", ""),
        ("TLS", ""),
        ("credential", "alice"),
        ("memory", ""),
        ("disk", "alice"),
        ("private state", "alice"),
        ("data", "alice"),
        ("data", "alice"),
    ]
    (unknown,) = [row for row in found if row.verdict is not Verdict.OK]
    assert (unknown.check, unknown.verdict) == ("specification", Verdict.WARNING)
    assert [request.url.path for request in coordinator.requests] == ["/healthz"]
    assert not config.clients[0].state_dir.exists()


async def test_an_enrolled_client_is_held_against_its_federation(
    coordinator: FakeCoordinator, config: WorkerConfig
) -> None:
    enrol(config)
    private_state.save(config.clients[0].state_dir, first_state(coordinator, "alice"))
    before = {file: file.read_bytes() for file in config.clients[0].state_dir.iterdir()}
    found = await rows(coordinator, config)
    assert {row.verdict for row in found} == {Verdict.OK}
    assert of(found, "policy")[0][1].startswith("refuses nothing that the federation asks for")
    assert of(found, "private state") == [(Verdict.OK, "trained to round 0")]
    assert {request.method for request in coordinator.requests} == {"GET"}
    assert {file: file.read_bytes() for file in config.clients[0].state_dir.iterdir()} == before


async def test_all_faults_are_found_at_once(
    coordinator: FakeCoordinator, config: WorkerConfig, tmp_path: Path
) -> None:
    enrol(config)
    other = first_state(FakeCoordinator(tiny_specification("banks")), "alice")
    private_state.save(config.clients[0].state_dir, other)
    for name in ("train/class-0/0.png", "train/class-1/1.png", "test/class-2/0.png"):
        (tmp_path / "images" / name).write_bytes(b"no image")
    policy = config.policy.model_copy(update={"require_protection": "secure-sum"})
    found = await rows(coordinator, config.model_copy(update={"policy": policy}))
    faults = [(row.check, row.detail) for row in found if row.verdict is Verdict.FAULT]
    assert [check for check, _ in faults] == ["policy", "private state", "data", "data", "data"]
    assert [detail.partition(": ")[0] for _, detail in faults[2:]] == [
        f"{tmp_path}/images/train/class-0/0.png",
        f"{tmp_path}/images/train/class-1/1.png",
        f"{tmp_path}/images/test/class-2/0.png",
    ]


@pytest.mark.parametrize(("seconds", "verdict"), [(20, Verdict.OK), (-400, Verdict.WARNING)])
async def test_a_clock_that_is_wrong_is_a_warning(
    coordinator: FakeCoordinator, config: WorkerConfig, seconds: int, verdict: Verdict
) -> None:
    theirs = datetime.now(UTC) + timedelta(seconds=seconds)
    coordinator.headers["Date"] = format_datetime(theirs, usegmt=True)
    ((found, detail),) = of(await rows(coordinator, config), "clock")
    assert found is verdict
    assert detail.endswith(" s from the coordinator's")


async def test_a_page_in_place_of_a_coordinator_is_a_fault_and_the_rest_is_looked_at(
    coordinator: FakeCoordinator, config: WorkerConfig
) -> None:
    enrol(config)
    coordinator.answer("GET", "/healthz", httpx.Response(200, html="<h1>Sign in</h1>"))
    found = await rows(coordinator, config)
    assert of(found, "coordinator")[0][0] is Verdict.FAULT
    assert of(found, "credential") == [(Verdict.WARNING, "there is one; it was not tried")]
    assert len(of(found, "data")) == 2
    assert len(coordinator.requests) == 1, "no credential goes to whoever that is"


async def test_another_protocol_and_a_revoked_credential_are_faults(
    coordinator: FakeCoordinator, config: WorkerConfig
) -> None:
    enrol(config)
    health = '{"status":"ok","protocol":99,"version":"9"}'
    coordinator.answer("GET", "/healthz", httpx.Response(200, content=health))
    found = await rows(coordinator, config)
    assert of(found, "protocol") == [
        (Verdict.FAULT, "this worker speaks version 1, and the coordinator version 99")
    ]
    coordinator.answer("GET", "/tiny", problem(ProblemType.UNAUTHENTICATED, "revoked"))
    ((verdict, detail),) = of(await rows(coordinator, config), "credential")
    assert verdict is Verdict.FAULT
    assert "revoked" in detail


async def test_images_that_two_clients_share_are_a_warning_unless_they_divide_them(
    coordinator: FakeCoordinator, config: WorkerConfig, tmp_path: Path
) -> None:
    (alice,) = config.clients
    bob = alice.model_copy(update={"name": "bob", "state_dir": tmp_path / "bob"})
    both = config.model_copy(update={"clients": (alice, bob)})
    (shared,) = [row for row in await rows(coordinator, both) if "have the same" in row.detail]
    assert shared.verdict is Verdict.WARNING
    assert shared.detail.startswith("alice and bob have the same 18 images, byte by byte: ")
    parts = [
        client.model_copy(
            update={
                "data": client.data.model_copy(
                    update={"partition": "iid", "num_clients": 2, "client_index": index}
                )
            }
        )
        for index, client in enumerate(both.clients)
    ]
    divided = both.model_copy(update={"clients": tuple(parts)})
    assert not [row for row in await rows(coordinator, divided) if "the same" in row.detail]


def specification(federation: str) -> FederationSpecification:
    plan, policy = tiny_plan(), tiny_specification().round_policy
    return build_specification(
        federation,
        method="hyperfl",
        model=plan.model,
        image_shape=IMAGE_SHAPE,
        num_classes=4,
        class_names=("class-0", "class-1", "class-2", "class-3"),
        hyperparameters=plan.hyperparameters,
        round_policy=policy,
        encoding=tiny_specification().encoding,
        seed=1,
    )


async def test_a_round_is_tried_on_a_state_that_is_thrown_away(
    coordinator: FakeCoordinator,
    config: WorkerConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trained = []
    real = HyperFL.train

    def train(method: HyperFL, group: list[object], *rest: object) -> object:
        trained.extend(group)
        return real(method, group, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(HyperFL, "train", train)
    file = tmp_path / "tiny.json"
    file.write_text(specification("tiny").model_dump_json())
    coordinator.answer("GET", "/healthz", httpx.ConnectError("refused"))
    found = await rows(coordinator, config, specification_file=file, dry_run=True)
    assert [row.check for row in found if row.verdict is not Verdict.OK] == ["coordinator"]
    assert of(found, "data")[0][1].endswith("none of class-3; modes L 12; sizes 4x4 to 4x4")
    ((_, detail),) = of(found, "dry run")
    assert detail.startswith("a round on 12 examples took ")
    assert "its update would have " in detail
    assert len(trained) == 1
    assert [request.url.path for request in coordinator.requests] == ["/healthz"]
    assert not config.clients[0].state_dir.exists()


async def test_no_round_is_tried_where_there_are_faults(
    coordinator: FakeCoordinator, config: WorkerConfig, tmp_path: Path
) -> None:
    file = tmp_path / "tiny.json"
    file.write_text(specification("tiny").model_dump_json())
    (tmp_path / "images/train/class-0/0.png").write_bytes(b"")
    found = await rows(coordinator, config, specification_file=file, dry_run=True)
    assert of(found, "dry run") == [(Verdict.WARNING, "not tried: there are faults")]


async def test_another_federations_specification_is_refused(
    coordinator: FakeCoordinator, config: WorkerConfig, tmp_path: Path
) -> None:
    file = tmp_path / "banks.json"
    file.write_text(specification("banks").model_dump_json())
    with pytest.raises(ConfigError, match=r"banks\.json specifies federation banks, not tiny"):
        await rows(coordinator, config, specification_file=file)


async def test_classes_of_one_split_alone_are_no_fault_before_the_federation_is_known(
    coordinator: FakeCoordinator, config: WorkerConfig, tmp_path: Path
) -> None:
    (tmp_path / "images/test/class-1").rename(tmp_path / "images/test/class-9")
    found = await rows(coordinator, config)
    assert not [row for row in found if row.verdict is Verdict.FAULT]
    assert "none of class-9" in of(found, "data")[0][1]
    enrol(config)
    faults = [row for row in await rows(coordinator, config) if row.verdict is Verdict.FAULT]
    assert ["expected the class folders of" in row.detail for row in faults] == [True]


async def test_a_token_that_cannot_be_read_is_a_fault_though_nobody_is_reached(
    coordinator: FakeCoordinator, config: WorkerConfig, tmp_path: Path
) -> None:
    file = tmp_path / "alice.token"
    file.write_text("token-of-alice", encoding="utf-16")
    (client,) = config.clients
    told = {"enrolment_token": None, "enrolment_token_file": file}
    coordinator.answer("GET", "/healthz", httpx.ConnectError("refused"))
    changed = config.model_copy(update={"clients": (client.model_copy(update=told),)})
    found = await rows(coordinator, changed)
    assert of(found, "credential") == [(Verdict.FAULT, f"{file} is UTF-16: save it as UTF-8")]


async def test_what_lies_beside_the_private_state_is_looked_at(
    coordinator: FakeCoordinator, config: WorkerConfig
) -> None:
    enrol(config)
    folder = config.clients[0].state_dir
    private_state.save(folder, first_state(coordinator, "alice"))
    (folder / history.FILE_NAME).write_text("nothing\n")
    (verdict, detail), *_ = of(await rows(coordinator, config), "private state")[1:]
    assert verdict is Verdict.FAULT
    assert "history.jsonl is damaged: line 1" in detail
    (folder / history.FILE_NAME).unlink()
    (folder / best_version.FILE_NAME).write_bytes(b"nothing")
    (verdict, detail), *_ = of(await rows(coordinator, config), "private state")[1:]
    assert (verdict, "best.safetensors is damaged" in detail) == (Verdict.FAULT, True)


def with_source(config: WorkerConfig, **fields: object) -> WorkerConfig:
    source = DataSource.model_validate(fields)
    clients = tuple(client.model_copy(update={"data": source}) for client in config.clients)
    return config.model_copy(update={"clients": clients})


async def test_a_tables_images_and_rows_are_looked_at(
    coordinator: FakeCoordinator, config: WorkerConfig, tmp_path: Path
) -> None:
    files = sorted((tmp_path / "images").rglob("*.png"))
    lines = [
        f"{file.relative_to(tmp_path / 'images')},{file.parent.name},{file.parents[1].name},{place}"
        for place, file in enumerate(files)
    ]
    table = tmp_path / "labels.csv"
    table.write_text("\n".join(["file,label,split,group", *lines]))
    of_table = with_source(config, dataset="table", data_dir=tmp_path / "images", table_file=table)
    enrol(config)
    found = await rows(coordinator, of_table)
    assert {row.verdict for row in found} == {Verdict.OK}
    said = [detail for _, detail in of(found, "data")]
    assert [line.partition(";")[0] for line in said] == ["train: 12 images", "test: 6 images"]

    of_both = with_source(
        config, **of_table.clients[0].data.model_dump() | {"validation_fraction": 0.3}
    )
    said = [detail for _, detail in of(await rows(coordinator, of_both), "data")]
    assert [line.partition(";")[0] for line in said[2:]] == [
        "train: 8 examples",
        "test: 6 examples",
        "validation: 4 examples",
    ]

    files[0].write_bytes(b"no image")
    table.write_text("\n".join(["file,label,split,group", *lines, "gone.png,class-0,train,x"]))
    faults = [
        detail
        for verdict, detail in of(await rows(coordinator, of_table), "data")
        if verdict is Verdict.FAULT
    ]
    assert faults == [f"{table}: row 20: there is no file gone.png in {tmp_path / 'images'}"]


async def test_data_of_the_sites_own_code_is_counted_or_a_fault(
    coordinator: FakeCoordinator, config: WorkerConfig
) -> None:
    own = with_source(config, dataset="tests.support.own_examples:splits")
    enrol(config)
    found = await rows(coordinator, own)
    assert of(found, "data") == [
        (Verdict.OK, "train: 6 examples; 0 2, 1 2, 2 2"),
        (Verdict.OK, "test: 3 examples; 0 1, 1 1, 2 1"),
    ]
    broken = with_source(config, dataset="tests.support.own_examples:broken")
    assert of(await rows(coordinator, broken), "data") == [
        (Verdict.FAULT, "tests.support.own_examples:broken failed: RuntimeError: no scanner today")
    ]
