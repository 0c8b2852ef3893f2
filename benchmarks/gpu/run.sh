#!/bin/bash
# benchmarks/gpu/run.sh OUT [PIECE...]: the pieces (all, or those named), each in a process of its own; records.json, log.txt and table.md
# in OUT. It goes on from OUT/records.json, else from benchmarks/gpu/records.json: a piece that has a result is not run again.
# BUDGET (seconds, default 570) is when the last piece has to be done, LIMIT (default 520) what a single one may take.
set -u
cd "$(dirname "$0")/../.."
OUT=$(realpath -m "${1:?where the records go}")
shift
PYTHON=${PYTHON:-python3}
export PYTHONPATH="src${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
mkdir -p "$OUT"
[ -e "$OUT/records.json" ] || cp benchmarks/gpu/records.json "$OUT" 2>/dev/null
has() { $PYTHON -c "import json, sys; sys.exit(json.load(open('$OUT/records.json')).get('$1', {}).get('status') != 'done')" 2>/dev/null; }
END=$((SECONDS + ${BUDGET:-570}))
ALL=$($PYTHON benchmarks/gpu/pieces.py --list) || exit 1
for piece in ${@:-$ALL}; do
    has "$piece" && continue
    left=$((END - SECONDS))
    [ "$left" -lt 25 ] && { echo "$piece: no time left in this call"; continue; }
    [ "$left" -gt "${LIMIT:-520}" ] && left=${LIMIT:-520}
    echo "== $piece" | tee -a "$OUT/log.txt"
    timeout "$left" $PYTHON benchmarks/gpu/pieces.py "$piece" "$OUT" >"$OUT/piece.txt" 2>&1
    code=$?
    tail -n 30 "$OUT/piece.txt"
    cat "$OUT/piece.txt" >>"$OUT/log.txt"
    rm "$OUT/piece.txt"
    [ "$code" -eq 0 ] || $PYTHON benchmarks/gpu/pieces.py "$piece" "$OUT" "ended with $code after at most $left s (124: out of time)"
done
$PYTHON benchmarks/gpu/table.py "$OUT/records.json" $ALL | tee "$OUT/table.md"
