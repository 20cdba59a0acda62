//! Which kernel modules guests need.

/// QEMU's network devices and the Linux driver of each.
const DEVICES: [(&str, &str); 26] = [
    ("e1000", "e1000"),
    ("e1000-82544gc", "e1000"),
    ("e1000-82545em", "e1000"),
    ("e1000e", "e1000e"),
    ("i82550", "e100"),
    ("i82551", "e100"),
    ("i82557a", "e100"),
    ("i82557b", "e100"),
    ("i82557c", "e100"),
    ("i82558a", "e100"),
    ("i82558b", "e100"),
    ("i82559a", "e100"),
    ("i82559b", "e100"),
    ("i82559c", "e100"),
    ("i82559er", "e100"),
    ("i82562", "e100"),
    ("i82801", "e100"),
    ("igb", "igb"),
    ("ne2k_pci", "ne2k_pci"),
    ("pcnet", "pcnet32"),
    ("rtl8139", "8139cp"),
    ("tulip", "tulip"),
    ("virtio-net-device", "virtio_net"),
    ("virtio-net-pci", "virtio_net"),
    ("virtio-net-pci-non-transitional", "virtio_net"),
    ("vmxnet3", "vmxnet3"),
];

/// Loaded before the agent starts: what it talks and writes through.
pub(super) const AT_BOOT: [&str; 5] = ["virtio_pci", "virtio_mmio", "virtio_console", "virtio_blk", "virtio_rng"];

/// In the image for whoever asks: tunnels, rate limits, capture, links, what is known of sockets.
pub(super) const ON_DEMAND: [&str; 17] = [
    "8139too",
    "af_packet",
    "bridge",
    "dummy",
    "gre",
    "ifb",
    "ip_gre",
    "sch_fq",
    "sch_fq_codel",
    "sch_htb",
    "sch_ingress",
    "sch_netem",
    "sch_tbf",
    "tcp_bbr",
    "tcp_diag",
    "tun",
    "veth",
];

/// The kernel module that drives a network device of QEMU; `None` for a device not known here.
pub fn module_of(device: &str) -> Option<&'static str> {
    DEVICES.iter().find(|(name, _)| *name == device).map(|(_, module)| *module)
}

/// What to put into the kernel argument `vptest.modules=` (separated by commas) for these QEMU devices.
pub fn modules_for<'a>(devices: impl IntoIterator<Item = &'a str>) -> Vec<&'static str> {
    let mut modules: Vec<_> = devices.into_iter().filter_map(module_of).collect();
    modules.sort_unstable();
    modules.dedup();
    modules
}

/// All modules that go into an image when the kernel has them, sorted.
pub(super) fn wanted() -> Vec<&'static str> {
    let drivers = DEVICES.iter().map(|(_, module)| *module);
    let mut all: Vec<_> = drivers.chain(AT_BOOT).chain(ON_DEMAND).collect();
    all.sort_unstable();
    all.dedup();
    all
}
