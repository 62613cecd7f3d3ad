#!/bin/bash
# A container as a job of Slurm, which is over when the container has ended: its output is the
# job's, its exit code too, and it is deleted. The job asks Slurm for the memory and the
# processors that the flavor gives the container, and is called slurm-JOBID.
#
#   smoke.sh FLAVOR [OPTION-OF-SBATCH...] -- OPTION-OF-LXCBOOT-RUN...
#   smoke.sh m1.tiny --array=1-200 -- --image busybox --boot-from-volume 1 \
#     --delete-on-termination --nic none --init /bin/sh --init-arg -c --init-arg 'make check'
#
# srun takes it in a form of its own; see docs/cluster.md:
#   srun -N3 --mem=512 smoke.sh --job m1.tiny OPTION-OF-LXCBOOT-RUN...
set -euo pipefail
export PATH=/usr/local/bin:$PATH

if [[ ${1:-} == --job ]]; then
  flavor=${2:?} name=slurm-$SLURM_JOB_ID
  shift 2
  if ((${SLURM_NTASKS:-1} > 1)); then name+=-$SLURM_PROCID; fi
  # Slurm passes over the prolog of a job that it knows on this host, after slurmd was killed.
  if ((${SLURM_RESTART_COUNT:-0})); then lxcboot --quiet delete --force "$name"; fi
  # Less than Slurm's KillWait, or it kills this while the container still ends.
  exec lxcboot --quiet run --rm --stop-timeout 20s --flavor "$flavor" "$@" "$name"
fi

flavor=${1:?the flavor is missing: smoke.sh FLAVOR [OPTION-OF-SBATCH...] -- OPTION-OF-LXCBOOT-RUN...}
shift
options=()
while (($#)) && [[ $1 != -- ]]; do
  options+=("$1")
  shift
done
[[ ${1:-} == -- ]] || { echo "smoke.sh: there is no -- before the options of lxcboot run" >&2; exit 2; }
shift
of() { lxcboot flavor show -f value -c "$1" "$flavor"; }
memory=$(of ram) processors=$(of vcpus)
exec sbatch --job-name=smoke --mem="$memory" --cpus-per-task="$processors" "${options[@]}" "$0" --job "$flavor" "$@"
