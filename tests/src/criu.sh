# Becomes CRIU (the same process) with $1 as its root, in a mount namespace of its own: the rest are its arguments.
root=$1
shift
for directory in dev proc sys run "$1"; do
    mkdir -p "$root/$directory"
    mount --rbind "/$directory" "$root/$directory"
done
shift
exec chroot "$root" criu "$@"
