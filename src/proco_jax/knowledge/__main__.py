"""The stages of an experiment up to the cost network and its report.

    python -m proco_jax.knowledge --config=experiments/car_button.py

Uses the workdir of the run, so `python -m proco_jax.main` continues from there.
"""

from pathlib import Path

import numpy as np
from absl import flags

from proco_jax import command_line
from proco_jax.config.schema import Config
from proco_jax.config.validation import validate
from proco_jax.envs.tasks import get_task
from proco_jax.knowledge.grounding import knowledge_of, questions_shown
from proco_jax.knowledge.prompts import show
from proco_jax.knowledge.state_descriptions import describe

_SHOW_PROMPTS = flags.DEFINE_bool(
    "show_prompts", False, "Print the prompts that a model would get, and call no model."
)


def main(config: Config, workdir: Path) -> None:
    """Runs the stages, or prints the prompts."""
    validate(config)
    if _SHOW_PROMPTS.value:
        print(prompts_text(config))
        return
    _run(config, workdir)


def prompts_text(config: Config) -> str:
    """One prompt of every kind that the config uses, for a person to read.

    Questions about states are shown with made-up states, so that no data and
    no simulator are needed.

    Raises:
      ValueError: on an unknown task or a knowledge file that cannot be used.
    """
    own = config.knowledge.file or config.system.file
    knowledge = knowledge_of(config, None if own else get_task(config.task).spec)
    obs = np.random.default_rng(config.seed).random(
        (config.knowledge.batch, knowledge.spec.size), np.float32
    )
    # Most bins of a real ring are empty.
    obs = np.where(obs > 0.9, 9 * (obs - 0.9), 0.0)
    texts = [show(messages) for messages in questions_shown(config, knowledge, obs)]
    if config.knowledge.labeler == "rule":
        texts.append(f"The description of a state:\n{describe(obs[0], knowledge.spec)}")
    return "\n\n".join(texts)


def _run(config: Config, workdir: Path) -> None:
    # This is a command: the other files of this folder never import the pipeline.
    from proco_jax.pipeline import stages as pipeline
    from proco_jax.pipeline.workdir import open_run

    with open_run(config, workdir, command_line.store(), log=command_line.say) as run:
        pipeline.run_knowledge(run)
        report = run.read_json("cost.json") or {}
    for name, value in report.items():
        command_line.say(f"  {name}: {value}")
    command_line.say(f"report: {workdir / 'cost.json'}")


if __name__ == "__main__":
    command_line.run(main)
