# Installs what a script names, if it is missing, and says what and why. Sourced by the other scripts.
#
#   need COMMAND "why" APT-PACKAGES BREW-PACKAGES      collects what is missing
#   need_file FILE "why" APT-PACKAGES BREW-PACKAGES    the same for a file
#   install_needs                                      installs all of it in one go
#
# apt-get on Debian and Ubuntu, brew on macOS. sudo is used for the package manager alone.

NEEDS_APT=""
NEEDS_BREW=""
NEEDS_WHY=""

say() { printf '%s\n' "$*" >&2; }

_missing() {
  NEEDS_WHY="$NEEDS_WHY
  $1: $2"
  NEEDS_APT="$NEEDS_APT $3"
  NEEDS_BREW="$NEEDS_BREW $4"
}

need() {
  command -v "$1" >/dev/null 2>&1 || _missing "$@"
}

need_file() {
  case $(uname -s) in Darwin) return 0 ;; esac # brew's packages are never split into a tool and its files
  [ -e "$1" ] || _missing "$@"
}

_as_root() {
  if [ "$(id -u)" = 0 ]; then "$@"; else
    command -v sudo >/dev/null 2>&1 || { say "error: not root, and no sudo to install with; as root run: $*"; exit 1; }
    sudo "$@"
  fi
}

_switch_off() { # PACKAGE SERVICE
  case " $NEEDS_APT " in *" $1 "*) ;; *) return 0 ;; esac
  [ -d /run/systemd/system ] || return 0
  say "the package starts $2 as a service; it is not needed and is switched off (systemctl enable --now $2 brings it back)"
  _as_root systemctl disable --now "$2" >/dev/null 2>&1 || true
}

install_needs() {
  [ -n "$NEEDS_WHY" ] || return 0
  say "missing on this machine:$NEEDS_WHY"
  if command -v apt-get >/dev/null 2>&1; then
    say "installing with apt-get:$NEEDS_APT"
    # shellcheck disable=SC2086
    _as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends $NEEDS_APT >/dev/null 2>&1 || {
      _as_root apt-get update -q >/dev/null
      # shellcheck disable=SC2086
      _as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends $NEEDS_APT >/dev/null
    }
    # Some packages start a service; the scripts start their own processes, so that one would only be in the way.
    _switch_off etcd-server etcd
    _switch_off nginx nginx
    _switch_off haproxy haproxy
    _switch_off prometheus prometheus
    _switch_off docker-registry docker-registry
  elif command -v brew >/dev/null 2>&1; then
    say "installing with brew:$NEEDS_BREW"
    # shellcheck disable=SC2086
    brew install -q $NEEDS_BREW
  else
    say "error: neither apt-get nor brew is here; install these by hand:$NEEDS_APT"
    exit 1
  fi
}

# What scripts/bench needs to compare.
need_bench() {
  PATH=$PATH:/usr/sbin:/sbin # where Debian has nginx and haproxy
  need python3 "runs the scenarios of scripts/bench" "python3" "python3"
  need nginx "scripts/bench compares with it, and has it as an upstream" "nginx" "nginx"
  need haproxy "scripts/bench compares with it" "haproxy" "haproxy"
  need wrk "makes full load" "wrk" "wrk"
  need openssl "makes the certificate of the scenario over TLS" "openssl" "openssl"
  need docker-registry "scripts/bench registry compares with it" "docker-registry" ""
  need curl "pushes and pulls the blobs of scripts/bench registry" "curl" "curl"
  need h2load "makes load at a constant rate" "nghttp2-client" "nghttp2"
}

# What the build needs: every script starts with these.
need_build() {
  command -v cargo >/dev/null 2>&1 || {
    say "error: cargo is missing; install a Rust toolchain (1.89 or newer) first: https://rustup.rs"
    exit 1
  }
  need cc "links every Rust program, and builds zlib for Pingora" "gcc libc6-dev" "gcc"
  need cmake "builds zlib-ng, which Pingora's compression uses" "cmake make" "cmake"
  need make "builds zlib-ng, which Pingora's compression uses" "make" "make"
  need protoc "compiles etcd's protocol files for etcd-client" "protobuf-compiler libprotobuf-dev" "protobuf"
  need_file /usr/include/google/protobuf/descriptor.proto \
    "protoc's own files, which Debian packages apart from it" "libprotobuf-dev" "protobuf"
}
