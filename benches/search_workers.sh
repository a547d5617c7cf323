#!/usr/bin/env bash
# A search with one worker and with two: the same study of tiny-model trials from an empty file, in turn, several times, and the ratio of
# the medians.
#
#     benches/search_workers.sh [trials] [repeats]
#
# Nothing else should run on the machine. Trials are of one thread each (RAYON_NUM_THREADS=1), so that two workers have what one has, twice;
# nothing is pruned, so that both train the same number of steps. PEMLC names a binary to use instead of building one.
set -euo pipefail
trials=${1:-20} repeats=${2:-3} steps=${STEPS:-60}
cd "$(dirname "$0")/.."
ours=${PEMLC:-${CARGO_TARGET_DIR:-target}/release/pemlc}
[ -n "${PEMLC:-}" ] || cargo build --quiet --release -p pemlc
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
{
    echo "model = \"$PWD/fixtures/tiny-model\""
    printf '[training]\nsteps = %s\nbatch_size = 8\n[evaluation]\nlimit = 50\nbase = false\n' "$steps"
    for task in sentiment tense; do
        printf '[[tasks]]\nname = "%s"\n' $task
        printf 'train = "%s"\n' "$PWD/fixtures/demo/$task/train.jsonl"
        printf 'validation = "%s"\n' "$PWD/fixtures/demo/$task/validation.jsonl"
        printf 'template = "Text: {text}\\nAnswer:"\n'
        case $task in
            sentiment) echo 'verbalizers = [" negative", " positive"]' ;;
            tense) echo 'verbalizers = [" past", " present", " future"]' ;;
        esac
    done
    # What varies leaves the time of a trial alone.
    printf '[search]\n"training.learning_rate" = { low = 1e-5, high = 1e-2, log = true }\n'
} > "$scratch/run.toml"

# Seconds of a whole search with $1 workers.
search() {
    local folder start end complete
    folder=$(mktemp -d -p "$scratch")
    start=$(date +%s.%N)
    RAYON_NUM_THREADS=1 "$ours" search "$scratch/run.toml" --trials "$trials" --workers "$1" --study "$folder/study.db" \
        --output "$folder/trials" --device cpu --prune none > "$folder/table" 2> "$folder/log" || { cat "$folder/log" >&2; exit 1; }
    end=$(date +%s.%N)
    complete=$(grep -c ' complete ' "$folder/table")
    [ "$complete" -eq "$trials" ] || { echo "$complete of $trials trials are complete" >&2; exit 1; }
    awk "BEGIN { printf \"%.1f\\n\", $end - $start }"
}
median() { sort -n "$1" | awk '{ value[NR] = $1 } END { print (value[int((NR + 1) / 2)] + value[int(NR / 2) + 1]) / 2 }'; }

for _ in $(seq "$repeats"); do
    search 1 >> "$scratch/one"
    search 2 >> "$scratch/two"
done
one=$(median "$scratch/one") two=$(median "$scratch/two")
echo "| workers | seconds (median) | runs | against one |"
echo "|---|---|---|---|"
echo "| 1 | $one | $(paste -sd ' ' "$scratch/one") | 1.00x |"
echo "| 2 | $two | $(paste -sd ' ' "$scratch/two") | $(awk "BEGIN { printf \"%.2f\", $one / $two }")x |"
