"""`launch.py train small`: every bundled model from nothing but the repository, flite and espeak-ng.

Each step reads what the steps before it left in the work folder and is skipped when its result is there. The trainers live
with their models; here the corpus is handed to them as values.
"""

import argparse
import sys
import time

from app.small.allocator import keep_memory
from app.small.plan import ON_REQUEST, ROOT, Places, SmallTraining
from app.small.steps import STEPS
from configs.loader import DEFAULTS, load_as
from configs.schema import ConfigError

# Steps that can begin with finished weights instead of random ones (--start-from)
CONTINUED = ("flow", "vocoder", "tmt", "paraformer", "qwen")


def run(options: argparse.Namespace) -> int:
    """Run the chosen steps, or all that ship and are not done."""
    keep_memory()
    plan = load_as(
        SmallTraining,
        options.plan or DEFAULTS / "train" / "small.yaml",
        options.plan_settings,
        example="--set-plan tmt.steps=1000",
    )
    unknown = [name for name in options.models if name not in STEPS]
    if unknown:
        raise ConfigError(f"train small: no step named {', '.join(unknown)}; the steps are {', '.join(STEPS)}.")
    if options.start_from and (not options.models or set(options.models) - set(CONTINUED)):
        raise ConfigError(f"train small --start-from: name the models; {', '.join(CONTINUED)} can begin with weights.")
    places = Places(options.work, options.out or ROOT, options.start_from)
    for name in options.models or [name for name in STEPS if name not in ON_REQUEST]:
        if places.done(name).exists():
            sys.stdout.write(f"{name}: done before; delete {places.done(name)} to run it again\n")
            continue
        began = time.process_time()
        figures = STEPS[name](places, plan)
        line = ", ".join(f"{key} {value:.4g}" for key, value in figures.items())
        places.done(name).write_text(f"{line}\n", encoding="utf-8")
        sys.stdout.write(f"{name}: {(time.process_time() - began) / 60:.1f} CPU-minutes; {line}\n")
        sys.stdout.flush()
    return 0
