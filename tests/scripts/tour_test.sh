#!/bin/sh
# The Markdown files tell the truth about the tree: what they name is there. Everything is compared with lists made once from the tree:
#   `kernels/norm.h`, `src/base`, `tests/`   a path of the tree, from its root or from the Markdown file's folder
#   `norm.h`                       a file with this name is somewhere in the tree
#   [text](path)                   a relative link leads somewhere
#   `run()`, `Executor::run()`     occurs as a word followed by ( in a source file; every other name before a :: as a word
#   `Executor`, `unit_rows`        CamelCase and snake_case words occur in a source, script or table
#   - `FILE`: `f()`, `g()`         a line of this form promises more: each function occurs in one of the files named on it
#   ./train COMMAND --flag         is in that command's --help (if ./train is built); `--flag` alone in some --help, script or source
#   sh scripts/x.sh, `make x`      the script, the target exist
#   run_tests -ts=a,'b c'          test suites with these names exist
# Words in backticks are read outside code blocks, commands everywhere. Not read: words with blanks or any of *<>{}$"'=@, what a run makes
# (runs/ corpora/ build/ step_...), and names with a stem in capitals (OP.h, OP_test.cpp): they stand for others.
# shellcheck source=tests/scripts/check.sh
. "$(dirname "$0")/check.sh"
cd "$repo" || exit 1

# ---- the lists
find . \( -name .git -o -name .deps -o -path ./build -o -path ./runs -o -path ./corpora -o -name __pycache__ \) -prune -o -print |
    sed 's|^\./||' > "$tmp/paths"
grep -E '\.(h|cpp|cu)$' "$tmp/paths" | grep -E '^(kernels|src|tests)/|^train\.cu$' > "$tmp/sources"
{ cat "$tmp/sources"; grep -E '\.(sh|py|csv)$|^Makefile$' "$tmp/paths" | grep -v '^tests/scripts/tour_test'; } > "$tmp/readable"
# shellcheck disable=SC2046  # no path of the tree holds a blank
grep -oE '[A-Za-z_][A-Za-z0-9_]*\(' $(cat "$tmp/sources") /dev/null | sort -u > "$tmp/calls" # file:name(
while read -r file; do cat "$file"; done < "$tmp/readable" | tr -cs 'A-Za-z0-9_' '\n' | sort -u > "$tmp/words"
sed 's|.*/||; s|\.[^.]*$||' "$tmp/paths" | sort -u >> "$tmp/words" # and the names of files
sed -n 's/^\([a-z][a-z-]*\):.*/\1/p; s/^\.PHONY: *//p; s/^\$(BUILD)\(\/[a-z_]*\):.*/build\1/p' Makefile | tr ' ' '\n' | sort -u > "$tmp/targets"
while read -r file; do grep -oE -e '--[a-z][a-z0-9-]*' "$file"; done < "$tmp/readable" | sort -u > "$tmp/flags"
while read -r file; do sed -n 's/.*TEST_SUITE("\([^"]*\)").*/\1/p' "$file"; done < "$tmp/sources" | sort -u > "$tmp/suites"
: > "$tmp/help" # "COMMAND --flag" a line, and "COMMAND" alone; training is "train"
if [ -x ./train ]; then
    for command in $(./train --help | sed -n 's/^Other commands: *\([a-z ]*\);.*/\1/p') 'bench attention' train; do
        echo "$command"
        # shellcheck disable=SC2086  # a command of two words
        if [ "$command" = train ]; then ./train --help; else ./train $command --help; fi |
            grep -oE '^ +(-[A-Za-z],)?--[a-z][a-z0-9-]*' | tr -s ' ,' '\n' | sed -n "s/^-/$command -/p"
    done > "$tmp/help"
    grep -o -e '--.*' "$tmp/help" >> "$tmp/flags"
fi

# problems FOLDER: a line for everything that the Markdown files below it say and that is not so: FILE:LINE: what
problems() {
    (cd "$1" && find . \( -name .deps -o -path ./build -o -path ./runs -o -path ./corpora \) -prune -o -name '*.md' -print | sed 's|^\./||') > "$tmp/markdown"
    while read -r file; do
        awk -v file="$file" -v lists="$tmp" '
        function load(name, set,   line) { while ((getline line < (lists "/" name)) > 0) set[line] = 1; close(lists "/" name) }
        function say(what) { printf "%s:%d: %s\n", file, FNR, what }
        function there(path,   dir) {  # from the root or from the folder of the Markdown file
            sub(/\/+$/, "", path)
            dir = file; if (!sub(/\/[^\/]*$/, "", dir)) dir = ""
            return (path in paths) || (dir != "" && ((dir "/" path) in paths))
        }
        function link(path,   dir) {  # with ./ and ../
            dir = file; if (!sub(/[^\/]*$/, "", dir)) dir = ""
            path = dir path
            gsub(/\/\.\//, "/", path); sub(/^\.\//, "", path); sub(/\/+$/, "", path)
            while (sub(/[^\/.]+\/\.\.(\/|$)/, "", path)) {}
            sub(/\/+$/, "", path)
            return path == "" || (path in paths)
        }
        function pair(path,   stem) { stem = path; sub(/\.[a-z]+$/, "", stem); return stem }
        function check_word(word,   n, parts, i, name, base) {
            if (word == "" || word ~ /[ *<>{}$"=@|,;+]/ || index(word, "\047") || word ~ /^(runs|corpora|build|step_)/) return
            base = word; sub(/.*\//, "", base)
            if (word ~ /^--[a-z]/) { if (!(word in flags)) say("no --help, script or source knows `" word "`"); return }
            if (word ~ /^[-.]/) return
            if (word ~ /^([A-Za-z_][A-Za-z0-9_]*::)*~?[A-Za-z_][A-Za-z0-9_]*\(\)$/) {
                sub(/\(\)$/, "", word); n = split(word, parts, "::")
                if (!(parts[n] in called)) say("no source calls or defines `" word "()`")
                for (i = 1; i < n; i++) if (!(parts[i] in words)) say("no source knows `" parts[i] "` of `" word "()`")
                return
            }
            if (base ~ /^[A-Z]+(_[a-z]+)?\.[a-z]+$/ && base !~ /^README\./) return
            if (word ~ /^[A-Za-z0-9_.\/-]+\/?$/ && word ~ /\//) {
                if (word ~ /^\.?(kernels|src|tests|scripts|data)(\/|$)/ || word ~ /\.(h|cpp|cu|sh|py|md|csv)$/ || word ~ /^[a-z]+\/$/)
                    if (!there(word)) say("there is no `" word "`")
                return
            }
            if (word ~ /^[A-Za-z0-9_.-]+\.(h|cpp|cu|sh|py|md)$/) { if (!(word in names)) say("no file is called `" word "`"); return }
            if (word ~ /^[A-Z][a-z0-9]+([A-Z][a-z0-9]*)*(::[A-Za-z0-9_]+)*$/ || word ~ /^[a-z][a-z0-9]*(_[a-z0-9]+)+$/ || word ~ /^[A-Za-z0-9_]+(::[A-Za-z0-9_]+)+$/) {
                n = split(word, parts, "::")
                for (i = 1; i <= n; i++) if (!(parts[i] in words)) say("no source knows `" word "`")
            }
        }
        # - `FILE`: `f()`, ...: each function in one of the files of the line, or in its .h or .cpp
        function check_promise(line,   rest, word, name, found, n, files, i, list) {
            rest = line; list = ""
            while (match(rest, /`[^`]+`/)) {
                word = substr(rest, RSTART + 1, RLENGTH - 2); rest = substr(rest, RSTART + RLENGTH)
                if (word ~ /\.(h|cpp|cu)$/) list = list " " pair(word)
                else if (word ~ /\(\)$/) {
                    name = word; sub(/\(\)$/, "", name); sub(/.*::/, "", name)
                    n = split(list, files, " "); found = 0
                    for (i = 1; i <= n; i++) if ((files[i] SUBSEP name) in defined) found = 1
                    if (!found) say("`" word "` is not in" list)
                }
            }
        }
        function check_train(line,   n, token, i, command, flag) {
            if (!have_help) return
            sub(/.*\.\/train/, "", line)
            sub(/[`#;&|>)].*/, "", line)
            gsub(/\047[^\047]*\047/, "X", line)
            n = split(line, token, " "); command = "train"; i = 1
            if (n >= 1 && token[1] ~ /^[a-z]+$/) { command = token[1]; i = 2 }
            if (n >= 2 && (command " " token[2]) in help && token[2] ~ /^[a-z]+$/) { command = command " " token[2]; i = 3 }
            if (!(command in help)) { say("./train has no command `" command "`"); return }
            for (; i <= n; i++) {
                flag = token[i]; sub(/=.*/, "", flag); sub(/[.,:]+$/, "", flag)
                if (flag == "--version" || flag == "--help") continue
                if (command == "plan" && ("train " flag) in help) continue  # it takes those of training too
                if ((flag ~ /^--[a-z]/ || flag ~ /^-[a-z]$/) && !((command " " flag) in help)) say("./train " command " has no option `" flag "`")
            }
        }
        BEGIN {
            load("paths", paths); load("words", words); load("targets", targets); load("flags", flags); load("help", help); load("suites", suites)
            for (path in paths) { name = path; sub(/.*\//, "", name); names[name] = 1 }
            for (line in help) have_help = 1
            while ((getline line < (lists "/calls")) > 0) {
                split(line, part, ":"); sub(/\($/, "", part[2]); called[part[2]] = 1; defined[pair(part[1]), part[2]] = 1
            }
        }
        /^```/ { fence = !fence; next }
        { code = fence || /^    /; text = $0 }
        # a command may go on in the next line
        { joined = waiting text; waiting = ""; if (joined ~ /\\$/) { waiting = joined; sub(/\\$/, " ", waiting) } }
        waiting == "" {
            rest = joined
            while (match(rest, /\.\/train( |`|$)[^`&|;]*/)) { check_train(substr(rest, RSTART, RLENGTH)); rest = substr(rest, RSTART + RLENGTH) }
            rest = joined
            while (match(rest, /(sh|python3?) +[a-z][a-z\/_.0-9]*\.(sh|py)/)) {
                word = substr(rest, RSTART, RLENGTH); rest = substr(rest, RSTART + RLENGTH); sub(/^[a-z0-9]+ +/, "", word)
                if (!there(word)) say("there is no `" word "`")
            }
        }
        match($0, /-ts=(\047[^\047]*\047|[^ `]+)/) {
            word = substr($0, RSTART + 4, RLENGTH - 4); gsub(/\047/, "", word); n = split(word, part, ",")
            for (i = 1; i <= n; i++) if (part[i] !~ /[*]/ && !(part[i] in suites)) say("there is no test suite `" part[i] "`")
        }
        code && /^ *make [a-z]/ { if (!($2 in targets) && $2 !~ /^#/) say("make has no target `" $2 "`") }
        code { next }
        {
            rest = text
            while (match(rest, /\]\([^)#:]+\)/)) {
                word = substr(rest, RSTART + 2, RLENGTH - 3); rest = substr(rest, RSTART + RLENGTH)
                if (!link(word)) say("the link `" word "` leads nowhere")
            }
            rest = text
            while (match(rest, /`[^`]+`/)) {
                word = substr(rest, RSTART + 1, RLENGTH - 2); rest = substr(rest, RSTART + RLENGTH)
                if (word ~ /^make [a-z-]+/) {
                    split(word, part, " ")
                    if (!(part[2] in targets)) say("make has no target `" part[2] "`")
                }
                check_word(word)
            }
        }
        /^- `[^`]+\.(h|cpp|cu)`:/ { check_promise(text) }
        ' "$1/$file"
    done < "$tmp/markdown"
}

problems . > "$tmp/found"
if [ -s "$tmp/found" ]; then fail "tour: everything that the Markdown files name is there" "$(cat "$tmp/found")"
else ok "tour: everything that the $(wc -l < "$tmp/markdown" | tr -d ' ') Markdown files name is there"; fi

# ---- and the check sees it when something is not: each line planted in a copy is reported, with file, line and word
mkdir -p "$tmp/copy/kernels"
n=0
planted() { n=$((n + 1)); printf '%s\n' "$1" >> "$tmp/copy/kernels/README.md"; printf 'kernels/README.md:%d: %s\n' "$n" "$2" >> "$tmp/wanted"; }
# shellcheck disable=SC2016,SC1003  # the backticks are Markdown
{
    planted 'see `kernels/no_such.h`'                     'there is no `kernels/no_such.h`'
    planted 'see `no_such.cpp`'                           'no file is called `no_such.cpp`'
    planted 'see `src/no_such_folder`'                    'there is no `src/no_such_folder`'
    planted 'see [that](../src/no_such/README.md)'        'the link `../src/no_such/README.md` leads nowhere'
    planted 'calls `no_such_function()`'                  'no source calls or defines `no_such_function()`'
    planted 'calls `Executor::no_such_method()`'          'no source calls or defines `Executor::no_such_method()`'
    planted 'calls `NoSuchClass::run()`'                'no source knows `NoSuchClass` of `NoSuchClass::run()`'
    planted 'a `NoSuchType`'                            'no source knows `NoSuchType`'
    planted 'a `no_such_word`'                          'no source knows `no_such_word`'
    planted '- `src/optim/guard.cpp`: `adamw_update()`'   '`adamw_update()` is not in src/optim/guard'
    planted 'run `make no-such-target`'                   'make has no target `no-such-target`'
    planted '    sh scripts/no_such.sh --prefix .deps'    'there is no `scripts/no_such.sh`'
    planted '    build/run_tests -ts=norm,frobnicate'     'there is no test suite `frobnicate`'
    planted 'the flag `--frobnicate`'                 'no --help, script or source knows `--frobnicate`'
    if [ -s "$tmp/help" ]; then
        planted '    ./train eval --lr 1'                 './train eval has no option `--lr`'
        planted '`./train frobnicate`'                    './train has no command `frobnicate`'
        planted '    ./train --preset demo \'             ''
        planted '        --val-fraction 1'                './train train has no option `--val-fraction`'
    fi
}
grep -v ': $' "$tmp/wanted" > "$tmp/expected"
problems "$tmp/copy" > "$tmp/found"
holds "tour: $(wc -l < "$tmp/expected" | tr -d ' ') planted mistakes are reported with file, line and word" diff "$tmp/expected" "$tmp/found"
# shellcheck disable=SC2016
printf '%s\n' '`kernels/norm.h`, `norm.h`, `src/optim`, [link](../src/README.md), `Executor::run()`, `GuardState`, `unit_rows`, `make demo`' \
    '- `src/optim/guard.h`: `skip_reason()`' '    ./train eval --model X' '`OP.h`, `runs/x`, `step_0000000500/`, `a b`' > "$tmp/copy/kernels/README.md"
problems "$tmp/copy" > "$tmp/found"
holds "tour: what is there is not reported" [ ! -s "$tmp/found" ]
finish
