#!/bin/bash
# Installs dwcp-observer as a systemd service, or removes it. Safe to run again: what is the same is left alone, an edited
# configuration is kept.
set -euo pipefail

usage() {
	cat <<-'EOF'
		Usage: install.sh [--binary FILE] [--prefix DIR] [--least] [--no-start]
		       install.sh --uninstall [--purge] [--prefix DIR]

		  --binary FILE  the agent (default: target/release/dwcp-observer, what `cargo xtask build` makes)
		  --prefix DIR   install below DIR instead of /: for images and tests; nothing is started
		  --least        leave out CAP_SYS_ADMIN also where the kernel takes it for uprobes
		  --no-start     install, but do not enable or start
		  --uninstall    stop and remove; configuration and history stay
		  --purge        with --uninstall: remove these too

		Exit codes: 0 done, 1 this host cannot run it or a step failed, 2 wrong arguments.
	EOF
}

fail() {
	echo "install.sh: $*" >&2
	exit 1
}

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
binary=$here/../target/release/dwcp-observer
prefix='' least='' start=yes uninstall='' purge=''
while [ $# -gt 0 ]; do
	case $1 in
	--binary | --prefix)
		[ $# -ge 2 ] || { usage >&2; exit 2; }
		if [ "$1" = --binary ]; then binary=$2; else prefix=${2%/}; fi
		shift
		;;
	--least) least=yes ;;
	--no-start) start='' ;;
	--uninstall) uninstall=yes ;;
	--purge) purge=yes ;;
	-h | --help) usage; exit 0 ;;
	*) usage >&2; exit 2 ;;
	esac
	shift
done
if [ -n "$purge" ] && [ -z "$uninstall" ]; then
	usage >&2
	exit 2
fi
[ -z "$prefix" ] || start=''

program=$prefix/usr/local/bin/dwcp-observer
config=$prefix/etc/dwcp-observer
unit=$prefix/etc/systemd/system/dwcp-observer.service
# With DynamicUser systemd keeps state in private/ and links to it.
state=$prefix/var/lib/dwcp-observer

# systemctl only where it would act on the host that is installed to.
systemd() {
	if [ -z "$prefix" ] && [ -d /run/systemd/system ]; then systemctl "$@"; fi
}

if [ -z "$prefix" ] && [ "$(id -u)" != 0 ]; then fail "must run as root"; fi

if [ -n "$uninstall" ]; then
	systemd disable --now dwcp-observer.service || true
	rm -rf "$unit" "$unit.d" "$program"
	systemd daemon-reload
	if [ -n "$purge" ]; then
		rm -rf "$config" "$state" "$prefix/var/lib/private/dwcp-observer"
	fi
	echo "removed"
	exit 0
fi

# What the kernel must have. The agent itself tells the rest: `dwcp-observer check`.
release=$(uname -r)
IFS=. read -r major minor _ <<<"$release"
minor=${minor%%[!0-9]*}
newer() { [ "$major" -gt "$1" ] || { [ "$major" -eq "$1" ] && [ "$minor" -ge "$2" ]; }; }
if [ -z "$prefix" ]; then
	newer 5 10 || fail "Linux $release: 5.10 or later is needed"
	[ -r /sys/kernel/btf/vmlinux ] || fail "no /sys/kernel/btf/vmlinux: a kernel with CONFIG_DEBUG_INFO_BTF=y is needed"
	case $(cat /sys/kernel/security/lockdown 2>/dev/null || true) in
	*'[confidentiality]'*) fail "the kernel is locked down for confidentiality: BPF programs may not read its memory" ;;
	esac
fi
[ -f "$binary" ] || fail "$binary is not there: run \`cargo xtask build\`, or name it with --binary"

changed=''
# put MODE FROM TO: by a rename, so that a running agent keeps the file that it runs from.
put() {
	if [ -f "$3" ] && cmp -s "$2" "$3"; then return; fi
	install -D -m "$1" "$2" "$3.new"
	mv -f "$3.new" "$3"
	echo "installed $3"
	changed=yes
}

put 755 "$binary" "$program"
put 644 "$here/systemd/dwcp-observer.service" "$unit"
if [ -f "$config/dwcp-observer.toml" ]; then
	cmp -s "$here/dwcp-observer.toml" "$config/dwcp-observer.toml" || echo "kept      $config/dwcp-observer.toml"
else
	put 644 "$here/dwcp-observer.toml" "$config/dwcp-observer.toml"
fi
drop_in=$unit.d/phase-functions.conf
# Since July 2025 nearly all kernels ask for it, stable ones too, and their version does not tell (distributions count on their own).
if [ -z "$least" ]; then
	put 644 "$here/systemd/phase-functions.conf" "$drop_in"
elif [ -f "$drop_in" ]; then
	rm "$drop_in"
	echo "removed   $drop_in"
	changed=yes
fi

if [ -n "$changed" ]; then systemd daemon-reload; else echo "nothing changed"; fi
if [ -n "$start" ] && [ -d /run/systemd/system ]; then
	"$program" check --config "$config/dwcp-observer.toml" >/dev/null || fail "this host cannot measure: run \`$program check\`"
	systemd enable dwcp-observer.service
	if [ -n "$changed" ]; then
		systemd restart dwcp-observer.service
	else
		systemd start dwcp-observer.service
	fi
elif [ -n "$start" ]; then
	echo "systemd does not run here: start it by \`$program run\`"
fi
