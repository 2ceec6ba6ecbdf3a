#!/usr/bin/env bash
# Copies the folder of a running sweep, so that the copy can be resumed at any moment:
#
#   bash experiments/launch/copy_results.sh ROOT COPY
#
# Files that declare a folder complete are listed first and copied last. A copy that is interrupted
# thus declares nothing complete whose files are not there.
set -euo pipefail
root=$1 copy=$2
marks=$(mktemp)
trap 'rm -f "$marks"' EXIT
cd "$root"
find . -name artifact.json -o -name done.json -o -name trained.json >"$marks"
# Files that vanish meanwhile (status 24) are temporary.
rsync --recursive --times --inplace --exclude artifact.json --exclude done.json \
    --exclude trained.json --exclude '*.lock' --exclude .lock ./ "$copy/" || [ $? -eq 24 ]
rsync --times --inplace --files-from="$marks" ./ "$copy/" || [ $? -eq 23 ] || [ $? -eq 24 ]
