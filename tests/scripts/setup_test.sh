#!/bin/sh
# scripts/setup.sh on machines that are made up: a PATH of its own with stand-ins for apt, the compiler and id.
# shellcheck disable=SC2317  # functions here are called by name, as arguments
# shellcheck source=tests/scripts/check.sh
. "$(dirname "$0")/check.sh"
cd "$tmp" || exit 1

# ---- a machine: its programs, who one is there, which headers its compiler has, which packages its release offers
mkdir bin
for tool in sh env sed grep tr cat mkdir rm ls sort dirname basename mktemp awk; do ln -s "$(command -v $tool)" bin/$tool; done
stub() { cat > "bin/$1"; chmod +x "bin/$1"; }
stub id <<'END'
#!/bin/sh
cat "$MACHINE/uid"
END
# What the machine lacks is named in $MACHINE/lacks, what its release does not offer in $MACHINE/unoffered.
stub g++ <<'END'
#!/bin/sh
while read -r line; do
    case $line in '#'*) ;; *) grep -qx "$line" "$MACHINE/lacks" || echo "$line" ;; esac
done
END
stub apt-cache <<'END'
#!/bin/sh
[ "$1" = policy ] || { shift; for name in "$@"; do case $name in -*) ;; *) echo "$name" ;; esac; done; exit; }
if [ ! -e "$MACHINE/lists" ] || grep -qx "$2" "$MACHINE/unoffered"; then echo "  Candidate: (none)"; else echo "  Candidate: 1.0"; fi
END
stub apt-get <<'END'
#!/bin/sh
echo "$*" >> "$MACHINE/apt.log"
case $1 in
    update) : > "$MACHINE/lists" ;;
    install) [ ! -e "$MACHINE/offline" ] || exit 100
             : > "$MACHINE/lacks" ;;
    download) [ ! -e "$MACHINE/offline" ] || exit 100
              shift 2
              for name in "$@"; do echo "$name" > "${name}_1.0_all.deb"; done ;;
esac
END
stub dpkg-deb <<'END'
#!/bin/sh
mkdir -p "$3/usr/include"; read -r name < "$2"; echo unpacked > "$3/usr/include/$name"
END
for tool in make bzip2 bible mpicc mpirun; do printf '#!/bin/sh\n' | stub $tool; done

# machine UID LACKS...: a new one, with package lists and everything on offer
machine() {
    MACHINE=$tmp/machine; export MACHINE
    rm -rf "$MACHINE"; mkdir "$MACHINE"
    echo "$1" > "$MACHINE/uid"; shift
    printf '%s\n' "$@" > "$MACHINE/lacks"
    : > "$MACHINE/lists"; : > "$MACHINE/unoffered"; : > "$MACHINE/apt.log"
}
setup() { run env PATH="$tmp/bin" CXX=g++ sh "$repo/scripts/setup.sh" "$@"; }
apt_ran() { grep -q -e "$1" "$MACHINE/apt.log"; }
apt_never_ran() { [ ! -s "$MACHINE/apt.log" ]; }

machine 0
setup --help;                 expect "setup: --help" 0 "usage"
setup --prefix;               expect "setup: --prefix without a folder is a usage error" 2 "needs a folder"
setup --lean;                 expect "setup: --lean without a folder is a usage error" 2 "goes with --prefix"
setup --nonsense;             expect "setup: an unknown argument is a usage error" 2 "unknown argument"

setup;                        expect "setup: everything is there" 0 "cli11 .* found" "onednn .* found" "pcre2 .* found" "utf8proc .* found"
holds "setup: then apt is left alone" apt_never_ran

machine 0 cli11 onednn
setup;                        expect "setup: root installs what is missing" 0 "cli11 .* installed" "onednn .* installed" "json .* found"
holds "setup: just that" apt_ran "install .*=300 libcli11-dev libdnnl-dev\$"
holds "setup: without refreshing lists that know it" [ "$(wc -l < "$MACHINE/apt.log")" -eq 1 ]

machine 0 cli11; rm "$MACHINE/lists"
setup;                        expect "setup: root on a machine without package lists" 0 "cli11 .* installed"
holds "setup: refreshes them first" [ "$(sed -n 's/ .*//p' "$MACHINE/apt.log" | tr '\n' ' ')" = "update install " ]

machine 0 onednn; echo libdnnl-dev > "$MACHINE/unoffered"
setup;                        expect "setup: a release without oneDNN is told, with the effect" 0 "no package libdnnl-dev" "onednn .* missing .*slower"

machine 0 pcre2 utf8proc; echo libutf8proc-dev > "$MACHINE/unoffered"
setup;                        expect "setup: vocabulary files need two more" 0 "pcre2 .* installed"
holds "setup: what is on offer is installed" apt_ran "install .*=300 libpcre2-dev\$"

machine 0; rm bin/mpicc bin/mpirun
setup;                        expect "setup: several ranks need MPI and its launcher" 0 "openmpi .* missing .*one rank only" "mpirun .* missing"
holds "setup: which root gets" apt_ran "install .*=300 libopenmpi-dev openmpi-bin\$"
for tool in mpicc mpirun; do printf '#!/bin/sh\n' | stub $tool; done

machine 0 cli11; : > "$MACHINE/offline"
setup;                        expect "setup: a download that fails ends with 8" 8 "could not install"

machine 1000 cli11 doctest
setup;                        expect "setup: without root it ends with 2" 2 "cli11 .* missing"
echo "sudo apt-get update && sudo apt-get install -y --no-install-recommends libcli11-dev doctest-dev" > line.txt
holds "setup: and prints the one line to run" cmp line.txt out
holds "setup: and runs nothing" apt_never_ran

machine 1000 onednn
setup;                        expect "setup: an optional library alone does not stop an ordinary user" 0 "onednn .* missing" "^sudo .*libdnnl-dev$"

machine 1000 cli11 json xxhash doctest onednn
setup --prefix deps;          holds "setup: --prefix unpacks" [ -e deps/usr/include/libcli11-dev ]
holds "setup: --prefix notes what it unpacked" grep -qx "libdnnl-dev_1.0_all" deps/packages.txt
holds "setup: --prefix unpacks what vocabulary files need" [ -e deps/usr/include/libpcre2-dev -a -e deps/usr/include/libutf8proc-dev ]
holds "setup: --prefix leaves no downloads behind" [ ! -e deps/.download ]
: > "$MACHINE/apt.log"; : > "$MACHINE/lacks"
setup --prefix deps;          expect "setup: --prefix a second time" 0
holds "setup: has nothing to do" apt_never_ran
: > "$MACHINE/offline"
setup --prefix other;         expect "setup: --prefix without network ends with 8" 8 "download failed"
holds "setup: and notes nothing as unpacked" [ ! -e other/packages.txt ]

machine 1000 cli11 json xxhash doctest onednn
setup --prefix lean --lean;   holds "setup: --lean unpacks" [ -e lean/usr/include/libcli11-dev -a -e lean/usr/include/libpcre2-dev ]
holds "setup: but not the largest library" [ ! -e lean/usr/include/libdnnl-dev ]

machine 0 cli11; mv bin/apt-get apt-get.away
setup;                        expect "setup: another distribution gets the names" 2 "CLI11, nlohmann/json and xxHash"
setup --prefix deps;          expect "setup: --prefix is for Debian packages" 2 "this system lacks them"
mv apt-get.away bin/apt-get

machine 1000; rm bin/g++
setup --prefix deps;          expect "setup: a compiler does not come with --prefix" 2 "compiler .* missing" "^sudo .*recommends g++"
finish
