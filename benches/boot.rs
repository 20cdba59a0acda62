//! From starting QEMU to the agent's greeting, for each kernel and machine type, under TCG; ways in turn, so that the
//! machine's moods hit all alike. Needs `qemu-system-x86_64` and package lists; keeps images in the usual cache.
//! `cargo bench --bench boot -- [ROUNDS]`

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tokio::net::UnixStream;
use vptest::agent::{Client, Limits};
use vptest::image::{self, Image, KernelChoice, Request};

/// Name, kernel, machine, bus of its virtio devices, CPU model, further kernel arguments.
type Way = (&'static str, KernelChoice, &'static str, &'static str, &'static str, &'static str);

const Q35: &str = "q35,usb=off,graphics=off,vmport=off";
const PC: &str = "pc,usb=off,graphics=off,vmport=off";
const WAYS: [Way; 8] = [
    ("full, q35, cpu max", KernelChoice::Full, Q35, "pci", "max", ""),
    ("full, q35, cpu qemu64", KernelChoice::Full, Q35, "pci", "qemu64", ""),
    ("full, q35, cpu max, mitigations=off", KernelChoice::Full, Q35, "pci", "max", "mitigations=off"),
    ("full, pc, cpu max", KernelChoice::Full, PC, "pci", "max", ""),
    ("full, microvm, cpu max", KernelChoice::Full, "microvm", "device", "max", ""),
    ("cloud, q35, cpu max", KernelChoice::Cloud, Q35, "pci", "max", ""),
    ("cloud, microvm, cpu max", KernelChoice::Cloud, "microvm", "device", "max", ""),
    ("full, q35, cpu max, plain arguments", KernelChoice::Full, Q35, "pci", "max", PLAIN),
];

/// Stands for the arguments without what shortens the boot.
const PLAIN: &str = "plain";

fn main() {
    // cargo adds `--bench`.
    let rounds = std::env::args().skip(1).find_map(|argument| argument.parse().ok()).unwrap_or(5);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let images = [KernelChoice::Full, KernelChoice::Cloud].map(|kernel| (kernel.clone(), image(kernel)));
    let directory = tempfile::tempdir().unwrap();
    let mut taken = vec![Vec::new(); WAYS.len()];
    for _ in 0..rounds {
        for (way, taken) in WAYS.iter().zip(&mut taken) {
            let image = &images.iter().find(|(kernel, _)| *kernel == way.1).unwrap().1;
            taken.push(runtime.block_on(boot(way, image, directory.path())));
        }
    }
    println!("{:40} {:>9} {:>9} {:>9} {:>7}", "way", "median s", "min s", "CPU s", "failed");
    for (way, taken) in WAYS.iter().zip(&taken) {
        let column = |which: fn(&(Duration, f64)) -> f64| {
            let mut all: Vec<f64> = taken.iter().flatten().map(which).collect();
            all.sort_by(f64::total_cmp);
            all
        };
        let (wall, cpu) = (column(|taken| taken.0.as_secs_f64()), column(|taken| taken.1));
        let show = |value: Option<&f64>| value.map_or_else(|| "-".to_owned(), |value| format!("{value:.2}"));
        let failed = taken.iter().filter(|taken| taken.is_none()).count();
        let (median, cpu) = (show(wall.get(wall.len() / 2)), show(cpu.get(cpu.len() / 2)));
        println!("{:40} {median:>9} {:>9} {cpu:>9} {failed:>7}", way.0, show(wall.first()));
    }
}

fn image(kernel: KernelChoice) -> Image {
    let vptest = PathBuf::from(env!("CARGO_BIN_EXE_vptest"));
    let request = Request { kernel, programs: Vec::new(), vptest, cache: image::default_cache().unwrap() };
    image::build(&request, &mut |step| eprintln!("{step}")).unwrap()
}

/// Wall time until the agent answered, and QEMU's CPU time until then; `None` when it did not.
async fn boot(way: &Way, image: &Image, directory: &Path) -> Option<(Duration, f64)> {
    let (_, _, machine, bus, cpu, more) = way;
    let socket = directory.join("agent");
    let tuned = format!("{} {} {more}", image::KERNEL_ARGUMENTS, image::tcg_arguments());
    let plain = "console=ttyS0 quiet panic=-1 reboot=t rdinit=/bin/vptest".to_owned();
    let line = if *more == PLAIN { plain } else { tuned } + " vptest.node=client1 -- agent --init";
    let mut qemu = Command::new("qemu-system-x86_64");
    qemu.args(["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-accel", "tcg", "-m", "256"]);
    qemu.args(["-machine", machine, "-cpu", cpu, "-serial", "null", "-append", &line]);
    qemu.args(["-chardev", &format!("socket,id=agent,path={},server=on,wait=off", socket.display())]);
    qemu.args(["-device", &format!("virtio-serial-{bus}")]);
    qemu.args(["-device", "virtserialport,chardev=agent,name=org.vptest.agent.0"]);
    qemu.arg("-kernel").arg(&image.kernel).arg("-initrd").arg(&image.initramfs).stdin(Stdio::null());
    let begun = Instant::now();
    let guest = Guest(qemu.spawn().unwrap());
    let stream = loop {
        match UnixStream::connect(&socket).await {
            Ok(stream) => break stream,
            Err(_) if begun.elapsed() < Duration::from_secs(5) => tokio::time::sleep(Duration::from_millis(2)).await,
            Err(error) => panic!("QEMU does not listen: {error}"),
        }
    };
    let (read, write) = stream.into_split();
    let client = Client::connect(read, write, Limits::default()).await;
    let taken = (begun.elapsed(), guest.cpu_seconds());
    drop(guest);
    std::fs::remove_file(socket).unwrap();
    client.ok().map(|_| taken)
}

struct Guest(Child);

impl Guest {
    /// User and system time so far, from fields 14 and 15 of proc(5)'s `stat`, in hundredths of seconds.
    fn cpu_seconds(&self) -> f64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.0.id())).unwrap();
        let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
        (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) / 100.0
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}
