#!/bin/sh
# Becomes the QEMU of this image: the same process, in a mount namespace of its own.
directory=@DIRECTORY@
scratch=@SCRATCH@
overlay=@OVERLAY@

if [ "${ZOO_INSIDE:-}" != "$$" ]; then
    ZOO_INSIDE=$$ exec unshare --mount --propagation private -- "$0" "$@"
fi
unset ZOO_INSIDE
set -e
root=$directory/root
if [ $overlay = yes ]; then
    mount -t tmpfs zoo "$directory/overlay"
    mkdir "$directory/overlay/upper" "$directory/overlay/work" "$directory/overlay/merged"
    mount -t overlay zoo "$directory/overlay/merged" \
        -o "lowerdir=$root,upperdir=$directory/overlay/upper,workdir=$directory/overlay/work"
    root=$directory/overlay/merged
fi
mount --rbind /dev "$root/dev"
mount --bind /proc "$root/proc"
mount --bind "$scratch" "$root$scratch"
exec chroot "$root" /usr/bin/qemu-system-x86_64 "$@"
