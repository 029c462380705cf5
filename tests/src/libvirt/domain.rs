//! The guest as libvirt is told of it.

use std::path::Path;

/// Its memory.
pub const MEMORY_MIB: u32 = 256;
/// Size of its disk, where it has one, bytes.
pub(super) const DISK_BYTES: u64 = 64 << 20;
/// Its disk on each host.
const DISK: &str = "/var/lib/libvirt/images/disk.raw";

/// A domain of the lab.
#[derive(Clone, Debug)]
pub struct Domain {
    /// Its name.
    pub name: String,
    /// Its UUID, new for each run: the record is found by it.
    pub uuid: String,
    /// With a disk that each host has a file of its own for.
    pub disk: bool,
    /// Port of the guest's clock on the loopback of either host.
    pub clock_port: u16,
}

impl Domain {
    /// The XML: a guest without firmware devices that boots `sector` and tells by `serial` that its memory is filled.
    #[must_use]
    pub fn xml(&self, sector: &Path, serial: &Path) -> String {
        let disk = if self.disk {
            format!(
                "<disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='{DISK}'/>\
                 <target dev='vda' bus='virtio'/></disk>"
            )
        } else {
            String::new()
        };
        format!(
            "<domain type='qemu' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
  <name>{name}</name><uuid>{uuid}</uuid>
  <memory unit='MiB'>{MEMORY_MIB}</memory><vcpu>1</vcpu>
  <os><type arch='x86_64' machine='pc'>hvm</type><boot dev='fd'/></os>
  <devices>
    <disk type='file' device='floppy'><driver name='qemu' type='raw'/><source file='{sector}'/><target dev='fda'/>\
             <readonly/></disk>
    {disk}
    <controller type='usb' model='none'/>
    <serial type='file'><source path='{serial}'/></serial>
    <memballoon model='none'/>
  </devices>
  <qemu:commandline>
    <qemu:arg value='-chardev'/><qemu:arg value='udp,id=clock,host=127.0.0.1,port={port}'/>
    <qemu:arg value='-device'/><qemu:arg value='isa-serial,chardev=clock,iobase=0x2f8,irq=3,id=clock0'/>
  </qemu:commandline>
</domain>
",
            name = self.name,
            uuid = self.uuid,
            sector = sector.display(),
            serial = serial.display(),
            port = self.clock_port,
        )
    }
}
