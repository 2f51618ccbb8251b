"""One client's private state: what goes in comes out, and damage never goes unseen."""

from __future__ import annotations

import base64
import json
import os
import stat
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from shared.arrays import Array
from shared.rest.schema import TaskKind
from shared.rest.state_generation import FIRST_GENERATION, StateGeneration
from shared.tensors import codec
from shared.tensors.low_rank import FactoredDelta
from worker.errors import PrivateStateError
from worker.site import private_state
from worker.site.private_state import FILE_NAME, PendingUpdate, PrivateState

BINDING = {"federation": "hospitals", "specification_digest": "sha256:0d", "client": "site-a"}
PENDING = PendingUpdate(TaskKind.TRAIN, 12, 11, b"\x00the update's bytes\xff", "sha256:0b")

SAVED_BY_0_1_0 = (
    "c-n1I!D_=W4Bh^u=(0=796M>6T(;BxV5g-Rxt1HVGzqa=D5bDZ-JfiB(m|oqL7?~aB>DOK@nMQHNVzAE8a+x0)ft"
    "-8K%;4w!)TA_Y3Y2(P{Fwd(~o=fHB@O53eq&9w|y6Y8k*h>)?@2x2&5ZmYmMDbywr9_&QEQwL7uNFrl+=TYpJ^uH"
    "tfP#OcdxUV?6F@(Rn%chc03%56D2Bw%tyC+6k+{k7&C|`bYiSuh5Y^(&*-!(>VS9G_Fb^$}G!`W*L^bUKb`8MhKO"
    "W(8^$@%aSvZ3bj_K3cV^y#>*_noEcq+8ZK~2;A-D9?G@>`K6<NtFgJMlCO9N<VXQvHCV|QS-WW&T1&Adn-^3~N>9"
    "^YV^^KIXdu@2L2;$2k#{A1)FCo1?_=XmTA+*zzTd0#K_wx%K>!hF"
)
"""The file of version 0.1.0, compressed, in base85: format 1, without the base digest."""

SAVED_IN_FORMAT_2 = (
    "c-nnZ!EW0y3?2F<fiAtMjV#--=fl=h|6r%NFer<Pg*mn%$sLLyKtFr8jaD+CXxs`A4f63lQl$Ufe2M4Cn&yB3Gz4"
    "fGRvlUQGNCj5-Q?^u1ibTsEUVbDW@dB;2sNuDCkHh;2zDGOP_u6IlMT@Oni1$HY^||v#2an*=tE5N9msrF2_4hg-"
    "r{fpEY*TD8Ij;B6EY#M2Ok<Y&chN*mdX<j+7A2XmyNNS1qXJB)c??Gz5<WUGdh3nIZ57QD}AacdkqxDP84m1rPdO"
    "3t1~R}vM4|yXd^QKNQ}}cw57^Z!18OE<&aW>$XjicsM(2~IJ*paiwA{zX=K@e4zvQA_+u&=UkWbX&-972xTVn;kH"
    "J$&@I*e5ibHSp4E=VT!!(C`Wx;<eB(H^NOj4{V{YJa*!nQ{fJ{C;)ilh`=mY+zv#eSx_@?Kf;EVg;s+FSaM^6eAF"
    "H8~S}N95Bcp7Y=T`kl-JUHZO$JNxf$=x{Snq=mPBqh12~zyAQ($_H!"
)
"""The same state without a generation, and with the base digest."""

FINITE = st.floats(width=32, allow_nan=False, allow_infinity=False)


def floats(*shape: int) -> st.SearchStrategy[Array]:
    return arrays.arrays(np.float32, shape, elements=FINITE)


FACTORS = st.builds(FactoredDelta, st.just(0.0), floats(2, 5), floats(2, 3))
PENDINGS = st.builds(
    PendingUpdate,
    st.sampled_from(TaskKind),
    st.integers(1, 10**6),
    st.integers(0, 10**6),
    st.binary(max_size=64),
    st.none() | st.just("sha256:0b"),
)
STATES = st.builds(
    PrivateState,
    federation=st.just(BINDING["federation"]),
    specification_digest=st.just(BINDING["specification_digest"]),
    client=st.just(BINDING["client"]),
    seed=st.integers(0, (1 << 128) - 1),
    tensors=st.dictionaries(
        st.sampled_from(["embedding", "head.weight", "buffers.mean"]), floats(2, 3)
    ),
    residual=st.fixed_dictionaries({}, optional={"output.weight": FACTORS, "bias": floats(4)}),
    last_round=st.integers(0, 10**6),
    pending=st.none() | PENDINGS,
    generation=st.builds(StateGeneration.after, st.integers(0, 10**6)),
)


def example_state(**changes: Any) -> PrivateState:
    state = PrivateState(
        **BINDING,
        seed=4021,
        tensors={"embedding": np.arange(3, dtype=np.float32)},
        residual={
            "output.weight": FactoredDelta(
                0.0, np.ones((1, 2), np.float32), np.ones((1, 3), np.float32)
            ),
            "output.bias": np.array([0.5, 0.25], np.float32),
        },
        last_round=12,
        pending=PENDING,
    )
    return replace(state, **changes)


def load(folder: Path) -> PrivateState | None:
    return private_state.load(folder, **BINDING)


def assert_same_bits(found: PrivateState | None, expected: PrivateState) -> None:
    assert found is not None
    owner = ("federation", "specification_digest", "client")
    for name in (*owner, "seed", "last_round", "generation"):
        assert getattr(found, name) == getattr(expected, name)
    assert found.tensors.keys() == expected.tensors.keys()
    for name, tensor in expected.tensors.items():
        assert_same_array(found.tensors[name], tensor)
    assert found.residual.keys() == expected.residual.keys()
    for name, change in expected.residual.items():
        other = found.residual[name]
        if isinstance(change, FactoredDelta):
            assert isinstance(other, FactoredDelta)
            assert other.scale == change.scale
            assert_same_array(other.left, change.left)
            assert_same_array(other.right, change.right)
        else:
            assert not isinstance(other, FactoredDelta)
            assert_same_array(other, change)
    assert vars_of(found.pending) == vars_of(expected.pending)


def assert_same_array(found: Array, expected: Array) -> None:
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
    assert found.tobytes() == expected.tobytes()


def vars_of(pending: PendingUpdate | None) -> dict[str, Any] | None:
    return None if pending is None else vars(pending)


def assert_refused_untouched(folder: Path, content: bytes, message: str = "damaged") -> None:
    file = folder / FILE_NAME
    file.write_bytes(content)
    with pytest.raises(PrivateStateError, match=message) as raised:
        load(folder)
    assert str(raised.value).startswith(str(file))
    assert len(str(raised.value).splitlines()) == 1
    assert file.read_bytes() == content
    assert list(folder.iterdir()) == [file]


@pytest.fixture
def saved(tmp_path: Path) -> bytes:
    """The bytes of a whole state, whose folder is ``tmp_path``."""
    private_state.save(tmp_path, example_state())
    return (tmp_path / FILE_NAME).read_bytes()


@given(state=STATES)
@settings(max_examples=60, deadline=None)
def test_a_state_comes_back_as_it_was_saved(
    tmp_path_factory: pytest.TempPathFactory, state: PrivateState
) -> None:
    folder = tmp_path_factory.mktemp("state")
    private_state.save(folder, state)
    assert_same_bits(load(folder), state)


def test_there_is_no_state_before_the_first_is_saved(tmp_path: Path) -> None:
    assert load(tmp_path / "new") is None
    assert not (tmp_path / "new").exists()


def test_saving_makes_the_folder_for_its_owner_alone(tmp_path: Path) -> None:
    folder = tmp_path / "state" / "site-a"
    private_state.save(folder, example_state())
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((folder / FILE_NAME).stat().st_mode) == 0o600


def test_the_newer_state_replaces_the_older(tmp_path: Path) -> None:
    private_state.save(tmp_path, example_state())
    newer = example_state(last_round=13).without_pending()
    private_state.save(tmp_path, newer)
    assert_same_bits(load(tmp_path), newer)


def test_without_pending_keeps_everything_else() -> None:
    state = example_state()
    assert state.without_pending().pending is None
    assert_same_bits(replace(state.without_pending(), pending=PENDING), state)


def test_loaded_tensors_can_be_changed(tmp_path: Path) -> None:
    private_state.save(tmp_path, example_state())
    state = load(tmp_path)
    assert state is not None
    state.tensors["embedding"] += 1.0


def test_a_crash_while_saving_leaves_the_state_before(
    tmp_path: Path, saved: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", crash)
    with pytest.raises(KeyboardInterrupt):
        private_state.save(tmp_path, example_state(last_round=13, pending=None))
    assert (tmp_path / FILE_NAME).read_bytes() == saved
    assert_same_bits(load(tmp_path), example_state())


def test_a_full_disk_leaves_the_state_before(tmp_path: Path, saved: bytes) -> None:
    (tmp_path / f".{FILE_NAME}.new").symlink_to("/dev/full")
    with pytest.raises(OSError, match=f"No space left on device: '.*/{FILE_NAME}'"):
        private_state.save(tmp_path, example_state(last_round=13, pending=None))
    assert (tmp_path / FILE_NAME).read_bytes() == saved
    assert_same_bits(load(tmp_path), example_state())


@given(data=st.data())
@settings(max_examples=200, deadline=None)
def test_a_flipped_bit_is_seen(tmp_path_factory: pytest.TempPathFactory, data: Any) -> None:
    folder = tmp_path_factory.mktemp("state")
    private_state.save(folder, example_state())
    content = bytearray((folder / FILE_NAME).read_bytes())
    position = data.draw(st.integers(0, len(content) - 1), label="position")
    content[position] ^= 1 << data.draw(st.integers(0, 7), label="bit")
    assert_refused_untouched(folder, bytes(content), "damaged|belongs to")


def test_a_flipped_bit_of_the_header_is_seen_wherever_it_is(tmp_path: Path, saved: bytes) -> None:
    header_end = 8 + int.from_bytes(saved[:8], "little")
    unseen = []
    for position in range(header_end):
        for bit in range(8):
            content = bytearray(saved)
            content[position] ^= 1 << bit
            (tmp_path / FILE_NAME).write_bytes(content)
            try:
                load(tmp_path)
            except PrivateStateError:
                continue
            unseen.append(bytes(content[position - 16 : position + 2]))
    assert unseen == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("seed", 4020),
        ("last_round", 13),
        ("pending_round", 13),
        ("pending_base_version", 10),
        ("pending_kind", "evaluate"),
        ("pending_round", None),
        ("pending_base_digest", None),
        ("generation", 12),
        ("mark", "ab"),
        ("format", 1),
        ("format", 2),
        ("format", 4),
        ("digest", "sha256:00"),
        ("client", "site-b"),
    ],
)
def test_a_changed_entry_of_the_description_is_seen(
    tmp_path: Path, saved: bytes, name: str, value: object
) -> None:
    tensors, metadata = codec.decode(saved)
    (key,) = metadata
    description = json.loads(metadata[key])
    assert name in description
    changed = {key: json.dumps(description | {name: value})}
    assert_refused_untouched(tmp_path, codec.encode(tensors, changed), "damaged|belongs to")


@given(length=st.integers(0, 2000))
@settings(max_examples=60, deadline=None)
def test_a_truncated_file_is_seen(tmp_path_factory: pytest.TempPathFactory, length: int) -> None:
    folder = tmp_path_factory.mktemp("state")
    private_state.save(folder, example_state())
    content = (folder / FILE_NAME).read_bytes()
    assert_refused_untouched(folder, content[: length % len(content)])


@pytest.mark.parametrize(
    "content", [b"", b"\0" * 4096, b"{}", codec.encode({"a": np.zeros(2)})], ids=len
)
def test_a_file_that_is_no_state_is_refused(tmp_path: Path, content: bytes) -> None:
    assert_refused_untouched(tmp_path, content)


def test_a_file_of_0_1_0_is_read_and_says_nothing_of_its_updates_base(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).write_bytes(zlib.decompress(base64.b85decode(SAVED_BY_0_1_0)))
    pending = replace(PENDING, base_digest=None)
    expected = example_state(residual={}, pending=pending)
    assert_same_bits(load(tmp_path), expected)
    private_state.save(tmp_path, expected)
    assert_same_bits(load(tmp_path), expected)


def test_a_state_of_before_generations_is_read(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).write_bytes(zlib.decompress(base64.b85decode(SAVED_IN_FORMAT_2)))
    found = load(tmp_path)
    assert_same_bits(found, example_state())
    assert found is not None
    assert found.generation == FIRST_GENERATION


def test_each_update_makes_a_generation_that_no_copy_has(tmp_path: Path) -> None:
    first, other = (example_state().with_update(PENDING) for _ in range(2))
    assert first.generation.generation == other.generation.generation == 1
    assert first.generation.mark != other.generation.mark
    private_state.save(tmp_path, first.without_pending())
    assert_same_bits(load(tmp_path), first.without_pending())
    assert first.with_update(PENDING).generation.generation == 2


def test_bytes_after_the_end_are_seen(tmp_path: Path, saved: bytes) -> None:
    assert_refused_untouched(tmp_path, saved + b"\0")


@pytest.mark.parametrize(
    ("key", "other", "message"),
    [
        ("federation", "banks", "belongs to federation hospitals, not banks"),
        ("client", "site-b", "belongs to client site-a, not site-b"),
        ("specification_digest", "sha256:1e", "belongs to specification sha256:0d, not sha256:1e"),
    ],
)
def test_a_state_of_something_else_is_refused(
    tmp_path: Path, saved: bytes, key: str, other: str, message: str
) -> None:
    with pytest.raises(PrivateStateError) as raised:
        private_state.load(tmp_path, **(BINDING | {key: other}))
    assert str(raised.value) == f"{tmp_path / FILE_NAME} {message}"
    assert (tmp_path / FILE_NAME).read_bytes() == saved


@pytest.mark.parametrize(
    "tensor",
    [
        np.array([True, False]),
        np.array([1, 2], np.int32),
        np.array([1, 2], np.int64),
        np.array([0.0, -np.inf], np.float32),
    ],
    ids=["bool", "int32", "int64", "infinity"],
)
def test_whatever_can_be_saved_can_be_loaded(tmp_path: Path, tensor: Array) -> None:
    """Buffers of a user's extractor are private tensors; masks are bool or hold -inf."""
    state = example_state(tensors={"buffers.mask": tensor})
    private_state.save(tmp_path, state)
    assert_same_bits(load(tmp_path), state)
