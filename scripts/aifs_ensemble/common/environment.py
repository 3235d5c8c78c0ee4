"""The environment variables by which processes of this workflow tell each other something.

Each is set by one process and read by those that it starts, on this machine or on a rented one.

====================================  ===========================================  ===================================
name                                  set by                                       read by
====================================  ===========================================  ===================================
`CONFIG`: the checked configuration   the coordinator, once its Snakefile is read  the commands that submit, watch and
as JSON                                                                            cancel jobs
`CYCLES`: the cycles of a run         the run                                      its second pass, in place of words
`COORDINATOR`: the coordinator's      the coordinator                              the same commands; the labels of
name                                                                               its machines
`JOB`: the id of the provider's job   the request for a machine                    the member's status
`KEPT`: the members that are          the coordinator, before jobs are planned     its jobs on this machine
delivered as asked for
`LAYER_ON_RENTED_DISK`: the           a job in a container without a mounted disk  the check of room on scratch
container's own layer has the room
that was rented for scratch
`MEMBERS_HERE`: members that this     the process that starts a machine's jobs     the job's check of room on scratch
machine makes, how many at once, and
of which models
`OVERLAYS`: the folder with the       the user, where it is not beside the         every process that loads a model
packages of families of models        packages of Python
`USED`: the members that products     a run whose ensemble is short, or that       its second pass, and all its jobs
are made of, by cycle, where they     makes products alone
are fewer than asked for
====================================  ===========================================  ===================================

Variables of other programs are named where they are used: CUDA_VISIBLE_DEVICES (`common.gpu`),
TORCHINDUCTOR_CACHE_DIR and TRITON_CACHE_DIR (`model.compile_cache`), CUBLAS_WORKSPACE_CONFIG (`model.stepper`),
HF_ENDPOINT and HF_TOKEN (`model.checkpoint.remote`), those of Google (`common.this_machine`, `workflow.bucket`,
`workflow.googlebatch.jobs`), PYTHONHASHSEED (`workflow.start`), and those that ``cloud.secrets`` names
(the executor plugin).
"""

CONFIG = "AIFS_ENSEMBLE_CONFIG"
CYCLES = "AIFS_ENSEMBLE_CYCLES"
COORDINATOR = "AIFS_ENSEMBLE_COORDINATOR"
JOB = "AIFS_ENSEMBLE_JOB"
KEPT = "AIFS_ENSEMBLE_KEPT"
LAYER_ON_RENTED_DISK = "AIFS_ENSEMBLE_LAYER_ON_RENTED_DISK"
MEMBERS_HERE = "AIFS_ENSEMBLE_MEMBERS_HERE"
OVERLAYS = "AIFS_ENSEMBLE_OVERLAYS"
USED = "AIFS_ENSEMBLE_USED"
