# shellcheck shell=bash disable=SC2034
# Sourced after lib.sh: a table of clients and cases, each of which is checked in several variants. A script sets VARIANTS,
# CASES, ROWS (the clients that are checked) and NO_COMMAND, and says what has passed by `passes`.

# CLIENT|CASES|REASON[|VARIANTS]: what a client has no way to do, in all variants or in these.
NO_COMMAND=()
# CLIENTS|CASES|NOTE: what a client does instead, or a reader should know.
NOTES=()
declare -A works=()

# passes CLIENT CASE VARIANT
passes() { works["$1 $2"]="${works["$1 $2"]:-} $3"; }

# cell CLIENT CASE: what tests/README.md says when it passed in all variants, in some, or there is no way to do it.
cell() {
    local passes=${works["$1 $2"]:-}
    if [ "$passes" = " ${VARIANTS[*]}" ]; then
        echo all
    elif has_no_command "$1" "$2"; then
        echo -
    else
        # One space between the words, and none around them.
        xargs <<<"${passes:-FAILED}"
    fi
}

# has_no_command CLIENT CASE [VARIANT]: in any variant, or in this one.
has_no_command() {
    local entry client cases reason variants
    for entry in "${NO_COMMAND[@]}"; do
        IFS='|' read -r client cases reason variants <<<"$entry"
        [[ $client = "$1" && " $cases " = *" $2 "* ]] || continue
        [ -z "$variants" ] || [[ " $variants " = *" ${3:-} "* ]] || continue
        return 0
    done
    return 1
}

row() {
    local case
    printf '| %s |' "$1"
    for case in "${CASES[@]}"; do printf ' %s |' "$(cell "$1" "$case")"; done
    echo
}

# The rows of the clients that were run, why they lack what they lack, and the notes.
table() {
    local client entry cases reason variants
    printf '| client |'
    printf ' %s |' "${CASES[@]}"
    echo
    for client in "${ROWS[@]}"; do row "$client"; done
    for entry in "${NO_COMMAND[@]}"; do
        IFS='|' read -r client cases reason variants <<<"$entry"
        [[ " ${ROWS[*]} " != *" $client "* ]] || echo "- $client, ${cases// /, }${variants:+ ($variants)}: $reason"
    done
    for entry in "${NOTES[@]}"; do
        IFS='|' read -r client cases reason <<<"$entry"
        echo "- ${client// /, }, ${cases// /, }: $reason"
    done
}

# Each line of the table stands in tests/README.md.
is_the_table_of_the_readme() {
    local line status=0
    while IFS= read -r line; do
        grep -qxF -- "$line" "$ROOT/tests/README.md" || {
            echo "tests/README.md lacks: $line"
            status=1
        }
    done <"$WORK/table"
    return $status
}
