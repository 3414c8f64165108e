"""What a comparison trains: variants as written, presets by task, and refusals before anything is made."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.algorithms.bc_config import BCConfig
from agent.algorithms.iql_config import IQLConfig
from agent.comparison.plan import Variant, make_plan
from agent.errors import ConfigError
from replay.schema import StoreSpec
from replay.store import Store


def make_store(path: Path, env: str) -> Path:
    spec = StoreSpec.from_terms(
        [{"name": "observation", "offset": 0, "length": 2, "dtype": "float32"}], low=[-1.0], high=[1.0],
        env={"id": env, "kwargs": {}, "max_episode_steps": 10},
    )  # fmt: skip
    Store.create(path, spec)
    return path


def test_a_variant_is_a_name_and_toml_values() -> None:
    variant = Variant.parse("iql+expectile=0.9+hidden=[64, 64]+extraction=after+critic_layer_norm=true+trunk=d2rl")
    assert variant.name == "iql"
    assert variant.settings == {
        "expectile": 0.9, "hidden": [64, 64], "extraction": "after", "critic_layer_norm": True,
        "trunk": "d2rl",
    }  # fmt: skip


def test_commas_within_a_list_do_not_end_a_variant() -> None:
    variants = Variant.parse_all("bc,iql+hidden=[64, 64]+critics=1, td3_bc")
    assert [variant.name for variant in variants] == ["bc", "iql", "td3_bc"]
    assert variants[1].settings == {"hidden": [64, 64], "critics": 1}


@pytest.mark.parametrize(
    ("text", "words"),
    [("iqk", "did you mean 'iql'"), ("iql+expectile", "no setting"), ("iql+expectile=[", "no setting")],
)
def test_a_variant_that_cannot_be_read_is_refused(text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Variant.parse(text)


def test_each_run_has_its_tasks_preset_its_variants_settings_and_its_own_seed_and_folder(tmp_path: Path) -> None:
    stores = [make_store(tmp_path / "door.zarr", "AdroitHandDoor-v1"), make_store(tmp_path / "hop.zarr", "Hopper-v5")]
    variants = [Variant.parse("iql+critics=1"), Variant.parse("bc")]
    plan = make_plan(stores, variants, seeds=2, out=tmp_path / "out", settings={"pretrain_steps": 7})
    assert len(plan) == 8
    assert len({run.config.out for run in plan}) == 8
    assert [run.seed for run in plan] == [0] * 4 + [1] * 4  # all methods once before any twice
    door_iql, door_bc, hop_iql, _ = (run.config for run in plan[:4])
    assert door_iql.algorithm == IQLConfig(expectile=0.7, beta=0.5, dropout=0.1, critics=1)
    assert door_bc.algorithm == BCConfig(dropout=0.1)
    assert (hop_iql.reward_scaling, door_iql.reward_scaling) == ("return_range", "none")
    assert all(run.config.pretrain_steps == 7 and run.config.seed == run.seed for run in plan)


def test_what_learns_from_its_own_experience_only_is_held_against_what_pretrains(tmp_path: Path) -> None:
    store = make_store(tmp_path / "hop.zarr", "Hopper-v5")
    variants = Variant.parse_all("iql,sac,rlpd")
    settings = {"pretrain_steps": 7, "online_steps": 9000}
    plan = make_plan([store], variants, seeds=1, out=tmp_path / "out", settings=settings)
    assert [run.config.pretrain_steps for run in plan] == [7, 0, 0]
    assert {run.config.online_steps for run in plan} == {9000}


def test_what_cannot_work_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    store = make_store(tmp_path / "hop.zarr", "Hopper-v5")

    def plan(*variants: str, **settings: object) -> None:
        make_plan([store], [Variant.parse(v) for v in variants], seeds=1, out=tmp_path / "out", settings=settings)

    with pytest.raises(ConfigError, match=r"unknown key 'algorithm\.expectle' in variant 'iql\+expectle=1'"):
        plan("iql+expectle=1")
    with pytest.raises(ConfigError, match=r"algorithm\.expectile is 1\.5"):
        plan("iql+expectile=1.5")
    with pytest.raises(ConfigError, match="names 'bc' twice"):
        plan("bc", "bc")
    with pytest.raises(ConfigError, match="bc cannot fine-tune: leave out --online-steps"):
        plan("bc", online_steps=10_000)
    with pytest.raises(ConfigError, match="sac learns from its own experience only: give --online-steps"):
        plan("iql", "sac")
    with pytest.raises(ConfigError, match="--steps is 0, so nothing would be trained"):
        plan("iql", pretrain_steps=0)
    with pytest.raises(ConfigError, match="the warm-up alone takes 5000 steps: give more"):
        plan("iql", online_steps=300)
    with pytest.raises(ConfigError, match=r"algorithm\.hidden in variant 'bc\+hidden=16' is 16 .* a list, e\.g\. \[64"):
        plan("bc+hidden=16")
    with pytest.raises(ConfigError, match=r"'algorithm\.expectile' in variant .*; bc does not have it, only iql"):
        plan("bc+expectile=0.9")
    assert not (tmp_path / "out").exists()
