"""Log an expert, learn from the log, score what came of it, export it: the loop in Python calls.

python examples/first_policy.py
"""

from agent import collect, configure, evaluate, export, train

ENV = "PointMaze_UMaze-v3"


def main() -> None:
    logged = collect(ENV, "maze.zarr", steps=1200, max_episode_steps=100)
    print(f"logged {logged['episodes']} episodes, mean return {logged['mean']:.2f}")

    # What is not said comes from the preset of the recorded environment; `slipway train --help` explains every field.
    config = configure(
        "maze.zarr", "runs/maze",
        pretrain_steps=300, log_every=50,
        algorithm={"hidden": [32, 32], "batch_size": 64}, evaluation={"final_episodes": 5},
    )  # fmt: skip
    outcome = train(config)  # the same call again resumes, or finds that all is done
    print(f"pretrained: mean return {outcome['pretrained']['mean']:.2f}")

    score = evaluate("runs/maze", episodes=5)
    low, high = score["ci"]
    print(f"{score['policy']}: {score['mean']:.2f} ({low:.2f} to {high:.2f})")

    made = export("runs/maze", "maze.policy")
    print(f"{made['bundle']} differs from the network by {made['parity']['action_error']:.1e} at most")


if __name__ == "__main__":
    main()
