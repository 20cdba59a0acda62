#!/bin/sh
# Merging many iteration files: vptest against the loops one would write with SQLite's shell and with Python.
#
#   benches/merge.sh [FILES [METRICS [DIRECTORY]]]      default: 10000 40 /dev/shm
#
# Every peer merges the same files into the same schema, in one transaction, without journal and without syncing. Prints
# for each its best of three, the ratio to vptest's best, the least CPU time and the largest peak memory. Needs GNU time, sqlite3 and python3.
set -eu
cd "$(dirname "$0")/.."
files=${1:-10000}
metrics=${2:-40}
work=$(mktemp -d "${3:-/dev/shm}/vptest-merge.XXXXXX")
trap 'rm -rf "$work"' EXIT INT TERM

bench=$(cargo build --quiet --release --bench store --message-format=json |
    sed -n '/"name":"store"/s/.*"executable":"\([^"]*\)".*/\1/p' | tail -n 1)
mkdir "$work/out"
"$bench" generate "$work/out" "$files" "$metrics"
echo "$files files of $(stat -c %s "$(find "$work/out" -name '*.db' | head -n 1)") bytes, $metrics metrics each; $(nproc) CPUs"
"$bench" status "$work/out"

# The schema, and the tables in order.
first=$(find "$work/out" -name '*.db' | sort | head -n 1)
sqlite3 "$first" .schema > "$work/schema.sql"
tables=$(sqlite3 "$first" "SELECT name FROM sqlite_schema WHERE type = 'table' AND name <> 'iteration' ORDER BY rootpage")

# One INSERT for each table; @N is the number that the iteration gets.
{
    echo "INSERT INTO iteration SELECT @N, $(sqlite3 "$first" "SELECT group_concat(quoted) FROM (SELECT '\"' || name || '\"' AS quoted FROM
        pragma_table_info('iteration') WHERE name <> 'id' ORDER BY cid)") FROM i.iteration;"
    for table in $tables; do
        columns=$(sqlite3 "$first" "SELECT group_concat(quoted) FROM (SELECT '\"' || name || '\"' AS quoted FROM pragma_table_info('$table')
            WHERE name <> 'iteration' ORDER BY cid)")
        echo "INSERT INTO $table SELECT @N, $columns FROM i.$table;"
    done
} | tr '\n' ' ' | sed 's/; /;\n/g' > "$work/insert.sql"
pragmas='PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF; PRAGMA page_size=8192; PRAGMA cache_size=-16384;'

# SQLite cannot DETACH inside a transaction that read from the database, and has ten attached at most: the loops attach ten,
# copy them in one transaction, and detach them. Python also gets a variant that reads each file through a connection of its
# own and inserts everything in one single transaction.
python3 - "$work" "$pragmas" > "$work/shell.sql" <<'PY'
import glob, sys
work, pragmas = sys.argv[1:]
insert = open(f"{work}/insert.sql").read()
paths = sorted(glob.glob(f"{work}/out/*.db"))
print(pragmas, open(f"{work}/schema.sql").read())
for start in range(0, len(paths), 10):
    batch = list(enumerate(paths[start : start + 10], start + 1))
    for n, path in batch:
        print(f"ATTACH 'file:{path}?immutable=1' AS i{n % 10};")
    print("BEGIN;")
    for n, path in batch:
        print(insert.replace("@N", str(n)).replace("FROM i.", f"FROM i{n % 10}."))
    print("COMMIT;")
    for n, path in batch:
        print(f"DETACH i{n % 10};")
PY
cat > "$work/attach.py" <<'PY'
import glob, sqlite3, sys
work, pragmas = sys.argv[1:]
insert = [line for line in open(f"{work}/insert.sql").read().replace("@N", "?").split("\n") if line.strip()]
db = sqlite3.connect(f"file:{work}/attach.db", uri=True, isolation_level=None, cached_statements=1000)
for pragma in pragmas.split(";"):
    db.execute(pragma)
db.executescript(open(f"{work}/schema.sql").read())
by_slot = [[line.replace("FROM i.", f"FROM i{slot}.") for line in insert] for slot in range(10)]
paths = sorted(glob.glob(f"{work}/out/*.db"))
for start in range(0, len(paths), 10):
    batch = list(enumerate(paths[start : start + 10], start + 1))
    for n, path in batch:
        db.execute(f"ATTACH ? AS i{n % 10}", (f"file:{path}?immutable=1",))
    db.execute("BEGIN")
    for n, path in batch:
        for statement in by_slot[n % 10]:
            db.execute(statement, (n,))
    db.execute("COMMIT")
    for n, path in batch:
        db.execute(f"DETACH i{n % 10}")
PY
cat > "$work/copy.py" <<'PY'
import glob, re, sqlite3, sys
work, pragmas = sys.argv[1:]
pairs = []
for line in open(f"{work}/insert.sql"):
    m = re.match(r"\s*INSERT INTO (\w+) SELECT @N, (.*) FROM i\.\w+;", line)
    if m:
        places = ",".join("?" * (2 + m[2].count(",")))
        pairs.append((f"SELECT ?, {m[2]} FROM {m[1]}", f"INSERT INTO {m[1]} VALUES({places})"))
db = sqlite3.connect(f"{work}/copy.db", isolation_level=None, cached_statements=1000)
for pragma in pragmas.split(";"):
    db.execute(pragma)
db.executescript(open(f"{work}/schema.sql").read())
db.execute("BEGIN")
for n, path in enumerate(sorted(glob.glob(f"{work}/out/*.db")), 1):
    source = sqlite3.connect(f"file:{path}?immutable=1", uri=True)
    for select, insert in pairs:
        db.executemany(insert, source.execute(select, (n,)))
    source.close()
db.execute("COMMIT")
PY
echo 'import sqlite3; print("SQLite in Python", sqlite3.sqlite_version)' | python3 -
echo "SQLite's shell $(sqlite3 --version | cut -d' ' -f1)"

# run NAME OUTPUT COMMAND...: best of three and peak memory, in $work/NAME.time and $work/NAME.kb
run() {
    name=$1
    output=$2
    shift 2
    for _ in 1 2 3; do
        rm -f "$output"
        /usr/bin/time -a -o "$work/$name.log" -f '%e %M %U %S' "$@" > "$work/$name.out" 2> "$work/$name.err" || {
            cat "$work/$name.err"
            exit 1
        }
    done
    sort -n "$work/$name.log" | head -n 1 | cut -d' ' -f1 > "$work/$name.time"
    awk '{ print $3 + $4 }' "$work/$name.log" | sort -n | head -n 1 > "$work/$name.cpu"
    sort -n -k2 "$work/$name.log" | tail -n 1 | cut -d' ' -f2 > "$work/$name.kb"
}
run vptest "$work/vptest.db" "$bench" merge "$work/vptest.db" "$work/out"
run shell "$work/shell.db" sqlite3 -bail "$work/shell.db" ".read $work/shell.sql"
run attach "$work/attach.db" python3 "$work/attach.py" "$work" "$pragmas"
run copy "$work/copy.db" python3 "$work/copy.py" "$work" "$pragmas"

for name in vptest shell attach copy; do
    rows=$(sqlite3 "$work/$name.db" 'SELECT (SELECT count(*) FROM iteration) || ":" || (SELECT count(*) FROM metric)')
    awk -v name="$name" -v rows="$rows" -v time="$(cat "$work/$name.time")" -v ours="$(cat "$work/vptest.time")" \
        -v kb="$(cat "$work/$name.kb")" -v cpu="$(cat "$work/$name.cpu")" \
        'BEGIN { printf "%-8s %7.2f s  %6.2f x vptest  %6.2f s CPU  %7d KiB peak  (iterations:metrics %s)\n", name, time, time / ours, cpu, kb, rows }'
done
"$bench" merge "$work/vptest.db" "$work/out"
