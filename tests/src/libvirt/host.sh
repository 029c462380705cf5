# Process 1 of a host of the lab: $1 its files, $2 its name. In namespaces of its own, so nothing is seen outside.
mount --make-rprivate /
mount -t proc proc /proc
for directory in /run /var/lib/libvirt /var/cache/libvirt /var/log/libvirt /etc/libvirt; do
    mkdir -p "$directory"
    mount -t tmpfs tmpfs "$directory"
done
mkdir -p /run/lock /run/libvirt /var/lib/libvirt/images
mount --bind "$1/images" /var/lib/libvirt/images
cp "$1/libvirtd.conf" "$1/qemu.conf" /etc/libvirt/
# libvirt asks for its own name; a name server that does not answer would hold it up for 40 s.
printf '127.0.0.1 localhost\n192.0.2.1 lab-source\n192.0.2.2 lab-destination\n' > /run/hosts
: > /run/resolv.conf
# The user that Debian's build looks for, even where QEMU runs as root.
{ cat /etc/passwd; echo libvirt-qemu:x:64055:64055::/:/usr/sbin/nologin; } > /run/passwd
{ cat /etc/group; echo libvirt-qemu:x:64055:; getent group kvm > /dev/null || echo kvm:x:64056:; } > /run/group
for file in hosts resolv.conf passwd group; do
    mount --bind "/run/$file" "/etc/$file"
done
hostname "$2"
libvirtd --listen --pid-file /run/libvirtd.pid
exit $?
