#!/bin/sh
# scripts/reproduce/slurm.sbatch with stand-ins for ./train and scontrol: what is forwarded, what is requeued, and how often.
# shellcheck disable=SC2016,SC2034,SC2154  # the stand-ins expand their own variables; check.sh has the others
# shellcheck source=tests/scripts/check.sh
. "$(dirname "$0")/check.sh"
cp "$repo/scripts/reproduce/slurm.sbatch" "$tmp/slurm.sbatch"
cd "$tmp" || exit 1
mkdir bin
printf '#!/bin/sh\necho "$*" >> "%s/scontrol.txt"\nexit "$(cat "%s/scontrol_status" 2>/dev/null || echo 0)"\n' "$tmp" "$tmp" > bin/scontrol
chmod +x bin/scontrol
export SLURM_JOB_ID=42 PATH="$tmp/bin:$PATH"
job() { : > scontrol.txt; run sh slurm.sbatch "$@"; }
requeues() { wc -l < scontrol.txt | tr -d ' '; }

job --preset tiny;  expect "slurm: says so when there is no ./train" 2 "no ./train in"
holds "slurm: and requeues nothing" [ "$(requeues)" = 0 ]

# ./train: notes its words; ends with the status wanted, or on USR1 with 75 after a moment of saving
cat > train <<'END'
#!/bin/sh
printf '%s|' "$@" > words.txt
[ "$(cat wanted)" = wait ] || exit "$(cat wanted)"
trap 'sleep 0.3; echo saved >> saved.txt; exit 75' USR1
echo $PPID > parent.txt
while :; do sleep 0.1; done
END
chmod +x train

echo 0 > wanted
job --preset tiny --data 'a b/*.bin' --lr 1e-3;  expect "slurm: a finished run ends the job" 0 "ended with 0"
holds "slurm: nothing is requeued" [ "$(requeues)" = 0 ]
holds "slurm: options are passed through as they are" \
    [ "$(cat words.txt)" = "--resume|auto|--threads|0|--out|runs/slurm_42|--preset|tiny|--data|a b/*.bin|--lr|1e-3|" ]
SLURM_CPUS_PER_TASK=7 job --preset tiny;  holds "slurm: it uses the CPUs of the job" grep -q -- "--threads|7|" words.txt

echo 75 > wanted
job;  expect "slurm: 75 requeues" 75 "requeued"
holds "slurm: this job, once" [ "$(cat scontrol.txt)" = "requeue 42" ]
echo 1 > scontrol_status
job;  expect "slurm: a refused requeue is told" 75 "submit it again"
rm scontrol_status

for code in 1 2 3 4 6 8 9 137; do
    echo $code > wanted
    job;  expect "slurm: $code keeps its code" $code "ended with $code"
    holds "slurm: $code is not requeued" [ "$(requeues)" = 0 ]
done

for form in "--out run1" "--out=run2" "-o run3" "-orun4"; do
    echo 5 > wanted
    total=0
    for _ in 1 2 3 4; do
        # shellcheck disable=SC2086  # two words
        job $form
        total=$((total + $(requeues)))
    done
    expect "slurm: a fourth failure at one place stops ($form)" 5 "brought no newer checkpoint"
    holds "slurm: three were requeued ($form)" [ "$total" = 3 ]
done
mkdir -p run1/step_0000000100
job --out run1;                  expect "slurm: progress starts the count anew" 5 "failure 1 at checkpoint step_0000000100"
holds "slurm: and is requeued" [ "$(requeues)" = 1 ]
echo 7 > wanted
job --out run1;                  expect "slurm: a lost peer counts with it" 7 "failure 2 at checkpoint step_0000000100"
echo 10 > wanted; mkdir run1/step_0000000200
job --out run1;                  expect "slurm: so does hardware" 10 "failure 1 at checkpoint step_0000000200"

# start_job, then wait until ./train is there: the job's process id in $job
echo wait > wanted
start_job() {
    rm -f parent.txt saved.txt; : > scontrol.txt
    sh slurm.sbatch --preset tiny > out 2> err < /dev/null & job=$!
    tries=0
    while [ ! -s parent.txt ] && [ $tries -lt 100 ]; do sleep 0.05; tries=$((tries + 1)); done
}
end_job() { status=0; wait "$job" || status=$?; }
start_job
kill -USR1 "$job"
end_job;                         expect "slurm: USR1 to the script reaches the run, which saves first" 75 "ended with 75"
holds "slurm: it was saved, once" [ "$(wc -l < saved.txt | tr -d ' ')" = 1 ]
holds "slurm: and requeued" [ "$(cat scontrol.txt)" = "requeue 42" ]
start_job
kill -TERM "$job"
sleep 0.2
kill -USR1 "$job"
end_job;                         expect "slurm: the script survives TERM until the run has saved" 75 "not requeued"
holds "slurm: a cancelled job is not requeued" [ "$(requeues)" = 0 ]
finish
