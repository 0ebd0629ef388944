#!/usr/bin/env bash
# Trains a sweep on a real Slurm that this script starts on this machine, controller and node, and stops again: preempted,
# requeued and out of time, its runs must come out bit by bit as processes of this machine make them.
#
#   apt-get install slurm-wlm munge
#   dev/check_slurm.sh target/release/coconut          (as root, about 10 minutes, most of them Slurm's pauses)
set -euo pipefail
program=$(realpath "${1:-target/release/coconut}")
place=$(mktemp -d)
cd "$place"
mkdir state spool munge
chmod 711 "$place"
host=$(hostname -s)
started=()

stop() {
    scancel --user=root 2> /dev/null || true
    sleep 2
    for pid in $(cat slurmd.pid slurmctld.pid munge/munged.pid 2> /dev/null) "${started[@]}"; do
        kill "$pid" 2> /dev/null || true
    done
    cd /
    if [ "${kept:-}" ]; then echo "kept: $place"; else rm -rf "$place"; fi
}
kept=1
trap stop EXIT

fail() { echo "FAILED: $*" >&2; exit 1; }

# An authentication of its own: a key, a socket.
head -c 128 /dev/urandom > munge/munge.key
chmod 700 munge
chmod 400 munge/munge.key
munged --foreground --force --key-file=munge/munge.key --socket="$place/munge.socket" --pid-file="$place/munge/munged.pid" \
    --log-file="$place/munge/munged.log" --seed-file="$place/munge/munged.seed" > munge/out 2>&1 &
started+=($!)

export SLURM_CONF=$place/slurm.conf
cat > slurm.conf <<CONF
ClusterName=check
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=16817
SlurmdPort=16818
AuthType=auth/munge
AuthInfo=socket=$place/munge.socket
SlurmUser=root
SlurmdUser=root
StateSaveLocation=$place/state
SlurmdSpoolDir=$place/spool
SlurmctldPidFile=$place/slurmctld.pid
SlurmdPidFile=$place/slurmd.pid
SlurmctldLogFile=$place/slurmctld.log
SlurmdLogFile=$place/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
KillWait=15
MinJobAge=600
SchedulerParameters=batch_sched_delay=1,requeue_delay=1
NodeName=$host NodeAddr=127.0.0.1 CPUs=$(nproc) State=UNKNOWN
PartitionName=low Nodes=$host Default=YES MaxTime=INFINITE State=UP PriorityTier=1
PartitionName=high Nodes=$host MaxTime=INFINITE State=UP PriorityTier=2 PreemptMode=OFF
CONF
for _ in $(seq 50); do [ -S munge.socket ] && break; sleep 0.1; done
slurmctld -D > slurmctld.out 2>&1 &
started+=($!)
sleep 1
slurmd -D > slurmd.out 2>&1 &
started+=($!)
for _ in $(seq 100); do [ "$(sinfo --noheader --format=%T --partition=low 2> /dev/null)" = idle ] && break; sleep 0.2; done
sinfo || { tail slurmctld.out slurmd.out; fail "no Slurm"; }

cat > recipe.yaml <<RECIPE
name: sums
task: arithmetic
operands: [0, 9]
operations: [3, 3]
modulus: 10
value_steps: True
train_examples: ${EXAMPLES:-8000}
val_examples: 100
n_layer: 2
n_embd: 64
n_head: 4
c_thought: 1
max_latent_stage: 2
cot_epochs: 1
epochs_per_stage: 1
num_epochs: 5
batch_size_training: 32
dropout: 0.1
lr: 1e-3
save_steps: 200
RECIPE
grid=(--over method=coconut,no_cot --seeds 0,1)
sweep() { "$program" sweep recipe.yaml "${grid[@]}" "$@"; }
slurm() { sweep --launcher slurm --partition low --cpus 1 --grace 20 "$@"; }
steps() { cat "$1"/*/metrics.jsonl 2> /dev/null | wc -l; }
wait_for() { for _ in $(seq 600); do eval "$2" && return; sleep 0.5; done; fail "no $1"; }
# All that is deterministic of a run's records.
losses() { for run in "$1"/*-seed*; do sed 's/"tokens_per_s.*//; s/"eval\/ms_per_question[^,]*//' "$run/metrics.jsonl" | grep -o '^{"step.*"grad_norm":[^,]*\|"eval/acc":[^,]*'; done; }

echo "== a plain array job, and the same by this machine's own processes"
time RAYON_NUM_THREADS=1 sweep -s save_path=here --jobs 2 > here.txt
slurm -s save_path=there --dry-run | grep -q "SBATCH --partition=low" || fail "dry run"
slurm -s save_path=there 2> told.txt > /dev/null
cat told.txt
grep -q "submitted 4 of 4 runs as job" told.txt || fail "not submitted"
slurm -s save_path=there 2> told.txt > /dev/null
grep -q submitted told.txt && fail "submitted twice"

echo "== preempted by a job of a higher partition, and one task requeued by hand"
wait_for "steps" '[ $(steps there/sums) -gt 400 ]'
squeue
sbatch --quiet --partition=high --exclusive --output=/dev/null --wrap "sleep 5"
wait_for "preemption" 'grep -l "training begins after [1-9]" there/sums/*/log.txt > /dev/null 2>&1'
scontrol requeue "$(tail -1 there/sums/queue/jobs.tsv | cut -f1)_0" || true
slurm -s save_path=there --wait > there.txt || fail "the array job"
grep -h "training begins" there/sums/*/log.txt
losses here/sums > here.losses
losses there/sums > there.losses
[ -s here.losses ] || fail "no losses"
cmp here.losses there.losses || fail "other losses"
echo "same: $(wc -l < here.losses) records of $(ls -d here/sums/*-seed* | wc -l) runs"
head -12 there.txt

echo "== out of time: a minute for runs that take longer"
grid=(--over method=coconut)
long=(-s "train_examples=$((${EXAMPLES:-8000} * 4))")
code=0
slurm "${long[@]}" -s save_path=short --time 1 --wait > short.txt 2> told.txt || code=$?
cat told.txt
[ $code = 1 ] || fail "exit code $code"
grep -q "Stopped after optimizer step" told.txt || fail "no word of the step at which it stopped"
slurm "${long[@]}" -s save_path=short --time 30 --wait > short.txt 2> told.txt || fail "did not go on"
cat told.txt
grep -h "training begins" short/sums/*/log.txt
RAYON_NUM_THREADS=1 sweep "${long[@]}" -s save_path=whole > whole.txt
losses whole/sums > whole.losses
losses short/sums > short.losses
cmp whole.losses short.losses || fail "other losses after the time limit"
echo "same: $(wc -l < whole.losses) records"

echo "== srun as any other command"
grid=(--over method=no_cot)
sweep -s save_path=srun -s train_examples=2000 --launcher "command:srun --quiet --ntasks=1 {command}" > srun.txt
head -5 srun.txt
kept=
echo "all is well"
