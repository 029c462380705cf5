#!/bin/bash
# Runs the agent under the shipped unit, in a systemd of its own, as a stand-in for the agent's program: every test that
# starts the agent thereby tries every directive of the unit.
#
#   DWCP_OBSERVER=$PWD/scripts/systemd/run-under.sh DWCP_AGENT=$PWD/target/release/dwcp-observer \
#       cargo test -p dwcp-observer-lab --test blackout
#
# Needs root and systemd's program, not a host that was booted with systemd: a user manager of root executes units as the
# system manager does (own user, capabilities, seccomp, namespaces). What it does not apply is said in docs/operate/install.md.
# DWCP_UNIT_LEAST=1 leaves phase-functions.conf out.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
agent=${DWCP_AGENT:-$here/../../target/release/dwcp-observer}
# Below /var/lib, since the unit sees no home and a /tmp of its own.
work=$(mktemp -d /var/lib/dwcp-unit-XXXXXX)
chmod 755 "$work"
install -m 755 "$agent" "$work/agent"

export XDG_RUNTIME_DIR=$work/xdg DBUS_SESSION_BUS_ADDRESS=unix:path=$work/xdg/bus
mkdir -m 700 "$XDG_RUNTIME_DIR"
units=$work/units
mkdir -p "$units/dwcp-observer.service.d"
cp "$here/dwcp-observer.service" "$units/"
if [ -z "${DWCP_UNIT_LEAST:-}" ]; then
	cp "$here/phase-functions.conf" "$units/dwcp-observer.service.d/"
fi
arguments=$(printf '"%s" ' "$@")
cat >"$units/dwcp-observer.service.d/test.conf" <<-EOF
	[Service]
	ExecStart=
	ExecStart=$work/agent $arguments
	Restart=no
	StandardOutput=append:$work/output
	StandardError=append:$work/output
EOF

# A control group of its own: a manager moves the processes of the one that it starts in.
name=${work##*/}
mapfile -t groups < <(findmnt -n -o TARGET -t cgroup2,cgroup)

manager=
# shellcheck disable=SC2329 # called by the traps
finish() {
	status=$?
	trap - EXIT TERM INT
	systemctl --user stop dwcp-observer.service || true
	cat "$work/output" >&2 || cat "$work/manager" >&2 || true
	if [ -n "$manager" ]; then
		kill "$manager" || true
		wait "$manager" || true
	fi
	for group in "${groups[@]}"; do
		find "$group/$name" -depth -type d -exec rmdir {} + || true
	done
	rm -rf "$work"
	exit "$status"
}
trap finish EXIT
trap 'exit 0' TERM INT

# systemd looks whether the host runs systemd by the presence of this directory: it gets one that only it sees. With a
# state directory of its own, and without what desktop sessions start.
# shellcheck disable=SC2016
env HOME="$work" XDG_CONFIG_HOME="$work/state" SYSTEMD_UNIT_PATH="$units:/usr/lib/systemd/user" SYSTEMD_LOG_TARGET=console \
	GROUPS_OF_SYSTEMD="${groups[*]}" NAME="$name" unshare --mount --propagation private sh -c '
		for group in $GROUPS_OF_SYSTEMD; do
			mkdir "$group/$NAME" || exit 1
			# A cpuset takes processes only once it has CPUs and memory.
			for file in cpuset.cpus cpuset.mems; do
				if [ -f "$group/$NAME/$file" ]; then cat "$group/$file" >"$group/$NAME/$file" 2>/dev/null || true; fi
			done
			echo $$ >"$group/$NAME/cgroup.procs" || exit 1
		done
		unset GROUPS_OF_SYSTEMD NAME
		mkdir -p /run/systemd && mount -t tmpfs tmpfs /run/systemd && mkdir /run/systemd/system || exit 1
		# What the system manager makes for the files that a unit must not see.
		cd /run/systemd && mkdir inaccessible && cd inaccessible && mkdir -m 0 dir && touch reg && chmod 0 reg &&
			mkfifo -m 0 fifo && mknod -m 0 chr c 0 0 && mknod -m 0 blk b 0 0 && cd / || exit 1
		exec /usr/lib/systemd/systemd --user --unit=basic.target' >"$work/manager" 2>&1 &
manager=$!
for _ in $(seq 100); do
	[ -S "$XDG_RUNTIME_DIR/systemd/private" ] && break
	sleep 0.05
done
if ! systemctl --user start dwcp-observer.service; then
	systemctl --user show -p Result,ExecMainCode,ExecMainStatus dwcp-observer.service >&2
	exit 1
fi
# Ends with the service, or at a signal.
while systemctl --user -q is-active dwcp-observer.service; do
	sleep 0.1 &
	wait $!
done
exit "$(systemctl --user show -p ExecMainStatus --value dwcp-observer.service)"
