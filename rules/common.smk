# What the rules share. Its logic, with unit tests, is in scripts/aifs_ensemble/workflow/snakefile.py.
import sys
from pathlib import Path

sys.path.insert(0, str(Path(workflow.basedir) / "scripts"))

# modules, not names: a Snakefile shares its namespace with Snakemake itself
from aifs_ensemble.workflow import snakefile as aifs_snakefile
from aifs_ensemble.workflow import snakemake_internals as aifs_internals

with aifs_internals.errors_in_one_line():
    aifs_snakefile.check_yaml("config/config.yaml")


configfile: "config/config.yaml"


with aifs_internals.errors_in_one_line():
    RUN = aifs_snakefile.Run(workflow, config)

CONFIG = RUN.config
# names of objects under the destination, and where rules find and leave them; "{member}" stands for each member,
# "{cycle}" for each cycle of a run that has several, and "{model}" for each of its models
KEYS = RUN.each.keys
PATH = RUN.each.path


# a member, a cycle or a model outside the configuration cannot be made by naming its file
wildcard_constraints:
    **RUN.wildcard_constraints(),
