#!/usr/bin/env bash
# Checks and times the variants in this folder: needs an NVIDIA driver and nothing else. Writes results.json here, unless --json
# names another file; `./attn-gpu-tune --help` lists the options.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
exec "$here/attn-gpu-tune" "$here" --json "$here/results.json" "$@"
