"""The mistakes that a new user is most likely to make: what is typed, and words that the answer must hold.

`test_mistakes.py` makes each of them and holds the answers against docs/mistakes.md, which `slipway`'s users read;
`WRITE_DOCS=1 python -m pytest tests/integration/test_mistakes.py` writes that page anew.

The folder holds `data.zarr` (a store of PointMaze_UMaze-v3), `run` (trained on it), `pretrained` (without an online
phase), `maze.policy` (exported), `config.toml`, `log.csv`, `arrays.npz`, `logs.hdf5`, `actor.pt` and a folder `notes`.
"""

from __future__ import annotations

CHAPTERS: dict[str, tuple[tuple[str, tuple[str, ...]], ...]] = {
    "Verbs and flags": (
        ("slipway trian --replay data.zarr --out new", ("'trian'", "slipway train")),
        ("slipway help", ("'help'", "slipway --help")),
        ("slipway collect --env PointMaze_UMaze-v3 --steps 500", ("--out", "slipway collect --help")),
        ("slipway train --replay data.zarr --out new --pretrain-stepz 10", ("--pretrain-stepz", "--pretrain-steps?")),
        ("slipway train --replay data.zarr --out new --expectile 0.8", ("--expectile", "--algorithm.expectile?")),
        ("slipway train --replay data.zarr --out new --algorithm iql", ("--algorithm", "--algorithm.name?")),
        ("slipway train --replay data.zarr --out new --pretrain-steps 1e6", ("--pretrain-steps", "'1e6'")),
        ("slipway train --replay data.zarr --out new --algorithm.hidden 256,256", ("--algorithm.hidden", "spaces")),
        ("slipway train --replay data.zarr --out new --normalize-observations false", ("false", "--no-NAME")),
        ("slipway train --replay data.zarr --out new --executor cuda", ("'cuda'", "--executor", "eager")),
        ("slipway train --replay data.zarr --out new --online.utd 100", ("online.utd", "100", "0.02 to 20")),
        ("slipway train --replay data.zarr --out new --env antmaze", ("'antmaze'", "AntMaze_")),
        ("slipway train --replay data.zarr --out new --online-steps 2000", ("2000", "5000", "--online.warmup-steps")),
        ("slipway train config.toml --replay data.zarr --out new", ("expectil", "config.toml", "'expectile'")),
    ),
    "One folder for another": (
        ("slipway train data.zarr --out new", ("data.zarr", "--replay data.zarr")),
        ("slipway train --out new", ("--replay", "slipway ingest")),
        ("slipway train --replay nowhere.zarr --out new", ("nowhere.zarr", "does not exist", "slipway ingest")),
        ("slipway train --replay logs.hdf5 --out new", ("slipway ingest logs.hdf5 --out logs.zarr",)),
        ("slipway train --replay run --out new", ("run/replay.zarr",)),
        ("slipway train --replay data.zarr --out notes", ("notes", "another --out")),
        ("slipway train --replay data.zarr --out run --seed 3", ("run", "seed: 0 → 3", "another --out")),
        ("slipway pretrain run", ("run/config.toml", "slipway finetune run")),
        ("slipway finetune pretrained", ("pretrained", "--online-steps")),
        ("slipway finetune maze.policy --online-steps 9000", ("maze.policy", "a policy bundle", "a run directory")),
        ("slipway eval data.zarr", ("data.zarr", "a replay store", "bundle")),
        ("slipway eval maze.policy --env AdroitHandDoor-v1", ("AdroitHandDoor-v1", "another layout", "--env")),
        ("slipway export maze.policy --out new", ("maze.policy", "a policy bundle", "a run directory")),
        ("slipway verify actor.pt", ("actor.pt", ".onnx", "slipway export")),
        ("slipway status nowhere", ("nowhere", "does not exist", "slipway train")),
        ("slipway replay data.zarr", ("'data.zarr'", "slipway replay ACTION STORE", "info")),
    ),
    "Data": (
        ("slipway ingest log.csv --out new", ("log.csv", "--columns")),
        ("slipway ingest arrays.npz --out new", ("arrays.npz", "'observations'", "obs")),
        ("slipway ingest actor.pt --out new", ("actor.pt", "Minari", ".npz")),
        ("slipway ingest data.zar --out new", ("data.zar", "'data.zarr'")),
        ("slipway collect --env CartPole-v1 --policy random --steps 500 --out new", ("CartPole-v1", "continuous")),
        ("slipway collect --env AdroitHandDoor-v1 --steps 500 --out new", ("AdroitHandDoor-v1", "--policy random")),
        ("slipway collect --env PointMaze_UMaze-v3 --steps 500 --out data.zarr", ("data.zarr", "another name")),
    ),
    "On the device": (
        ("slipway deploy maze.policy --robot my_robot.py --rate 50", ("'my_robot.py'", "module:name")),
        ("slipway deploy maze.policy --robot my_robot:make_robot", ("--robot", "--rate")),
        ("slipway deploy maze.policy --variant int8", ("maze.policy", "int8", "float32")),
    ),
}  # fmt: skip
