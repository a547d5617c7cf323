#!/usr/bin/env bash
# The worst error, absolute and relative, of each golden file: of forward passes (tolerance 2e-5 or less) and of gradients (2e-4).
set -euo pipefail
cd "$(dirname "$0")/.."
PEMLC_GOLDEN_TABLE=1 cargo test --quiet --package pemlc-trainer --lib -- --nocapture --test-threads 1 |
  grep -o 'golden [a-z0-9_]*\.json [^ ]* [^ ]*$' |
  awk '{
    kind = ($3 > 1e-4) ? "gradient" : "forward"
    if (!(($2, kind) in worst) || $4 > worst[$2, kind]) worst[$2, kind] = $4
    files[$2] = 1
  }
  END {
    for (file in files)
      printf "| %s | %s | %s |\n", file, (file, "forward") in worst ? worst[file, "forward"] : "-", (file, "gradient") in worst ? worst[file, "gradient"] : "-"
  }' | sort | { printf '| file | forward | gradients |\n|---|---|---|\n'; cat; }
