#!/bin/sh
# .ci/run counts what the runners print, and is red for everything that is not plainly green. `make` is a stand-in here.
# shellcheck disable=SC2016  # the stand-ins expand their own variables
# shellcheck source=tests/scripts/check.sh
. "$(dirname "$0")/check.sh"
command -v bash >/dev/null || { skip "ci" "bash is not installed"; finish; }
mkdir "$tmp/.ci" "$tmp/scripts" "$tmp/bin"
cp "$repo/.ci/run" "$tmp/.ci/run"
echo 'exit "${SETUP_STATUS:-0}"' > "$tmp/scripts/setup.sh"
printf '#!/bin/sh\ncat "%s/printed"\nexit "${MAKE_STATUS:-0}"\n' "$tmp" > "$tmp/bin/make"
chmod +x "$tmp/bin/make"

# ci WHAT-MAKE-PRINTS [VARIABLE=VALUE]
ci() { printf '%b' "$1" > "$tmp/printed"; shift; run env "$@" PATH="$tmp/bin:$PATH" bash "$tmp/.ci/run"; tail -n 1 "$tmp/out" > "$tmp/last"; cp "$tmp/last" "$tmp/out"; }

green='[doctest] test cases:  12 |  12 passed | 0 failed | 3 skipped\n[doctest] assertions: 90 | 90 passed | 0 failed |\nok a: b\nok c\n'
ci "$green";                                 expect "ci: sums both kinds of tests" 0 "^14 passed, 0 failed$"
ci "$green$green";                           expect "ci: and several runners" 0 "^28 passed, 0 failed$"
ci "${green}FAIL d\n" MAKE_STATUS=2;         expect "ci: a failed script test is red" 1 "^14 passed, 1 failed$"
ci "${green}FAIL d\n";                       expect "ci: also when make forgives it" 1 "^14 passed, 1 failed$"
ci '[doctest] test cases: 12 | 10 passed | 2 failed | 0 skipped\n' MAKE_STATUS=2
expect "ci: failed test cases are red" 1 "^10 passed, 2 failed$"
ci 'x.cpp:1: error: no\nmake: *** Error 1\n' MAKE_STATUS=2;  expect "ci: a broken build is red" 1 "^0 passed, 1 failed$"
ci "$green" MAKE_STATUS=2;                   expect "ci: a crash after the counts is red" 1 "^14 passed, 1 failed$"
ci 'nothing to do\n';                        expect "ci: a run without any test is red" 1 "^0 passed, 1 failed$"
ci "$green" SETUP_STATUS=8;                  expect "ci: a failed setup is red" 1 "^0 passed, 1 failed$"
finish
