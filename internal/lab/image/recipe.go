package image

import "slices"

// Kernels are the kernels a machine can run, by the name that [Get] takes. 6.1 is Debian 12's own; 6.12 comes from
// bookworm-security.
var Kernels = []string{"6.1", "6.12"}

// metapackages name the newest build of each kernel.
var metapackages = map[string]string{
	"6.1":  "linux-image-amd64",
	"6.12": "linux-image-6.12-amd64",
}

// modules are the kernel modules of the image, beside those they depend on. What a kernel was built without is left out
// for it by missing.
var modules = []string{
	// The machine's own devices.
	"virtio_pci", "virtio_net", "virtio_console", "virtio_rng", "9p", "9pnet_virtio", "overlay",
	// Links.
	"tun", "veth", "bridge", "dummy", "ifb", "vhost_net", "vhost_vsock", "vdpa", "vduse", "virtio_vdpa", "vhost_vdpa", "vsock_loopback",
	// Traffic control.
	"sch_netem", "sch_fq_codel", "sch_fq", "sch_tbf", "sch_htb", "sch_ingress", "sch_prio",
	"cls_u32", "cls_matchall", "cls_flower", "cls_bpf", "act_mirred", "act_gact",
	// Transport, packet generator, capture, socket diagnosis, filters.
	"tcp_bbr", "pktgen", "af_packet", "af_packet_diag", "inet_diag", "tcp_diag", "udp_diag", "unix_diag",
	"nf_tables", "nft_ct", "nft_reject_inet", "nft_masq",
}

// missing are the modules that Debian's kernels were built without.
var missing = map[string][]string{
	"6.1":  {"vdpa", "vduse", "virtio_vdpa", "vhost_vdpa"},
	"6.12": {},
}

// Modules are the kernel modules that the image of a kernel has, beside those they depend on.
func Modules(kernel string) []string {
	return slices.DeleteFunc(slices.Clone(modules), func(m string) bool { return slices.Contains(missing[kernel], m) })
}

// packages are the Debian packages of the image, beside those they depend on.
var packages = []string{
	"bash", "bind9-dnsutils", "busybox-static", "coreutils", "curl", "dash", "ethtool", "findutils", "grep", "hostname", "iperf3", "iproute2", "iputils-ping",
	"kmod", "mawk", "netcat-openbsd", "nftables", "passt", "procps", "sed", "socat", "strace", "tcpdump", "util-linux",
}

// needless are dependencies that only installing a package needs, or a use of it that the lab makes nothing of.
var needless = []string{
	"adduser", "debconf", "dpkg", "libdb5.3", "libgdbm-compat4", "libgdbm6", "libpam-modules", "libpam-modules-bin", "libpam-runtime", "libperl5.36", "libsemanage-common",
	"libsemanage2", "libsepol2", "netbase", "passwd", "perl", "perl-base", "perl-modules-5.36", "sensible-utils", "tar", "ucf", "util-linux-extra",
}

// needlessPaths are folders of packages that nobody reads in the machine.
var needlessPaths = []string{
	"usr/share/doc/", "usr/share/man/", "usr/share/locale/", "usr/share/info/", "usr/share/lintian/", "usr/share/bug/", "usr/share/bash-completion/", "usr/share/zoneinfo/",
	"usr/share/doc-base/", "usr/lib/x86_64-linux-gnu/gconv/", "usr/lib/x86_64-linux-gnu/perl", "usr/share/perl",
	"usr/lib/systemd/", "usr/lib/udev/", "usr/lib/locale/", "var/",
}

// files are written into the image as they are here, path to content.
var files = map[string]string{
	"etc/passwd":        "root:x:0:0:root:/root:/bin/bash\nuser:x:1000:1000:user:/home/user:/bin/bash\nnobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n",
	"etc/group":         "root:x:0:\ntty:x:5:\nuser:x:1000:\nnogroup:x:65534:\n",
	"etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
	"etc/hosts":         "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n127.0.1.1 machine\n",
	"etc/hostname":      "machine\n",
	"etc/resolv.conf":   "nameserver 127.0.0.1\n",
}

// links are symbolic links of the image, path to target: the merged /usr of Debian 12, and the choices that dpkg's
// alternatives make when packages are installed. All other commands of busybox are linked in the machine.
var links = map[string]string{
	"bin": "usr/bin", "sbin": "usr/sbin", "lib": "usr/lib", "lib64": "usr/lib64",
	"usr/bin/sh": "dash", "usr/bin/nc": "nc.openbsd", "etc/mtab": "../proc/mounts",
}

// folders are the empty folders of the image, path to permissions.
var folders = map[string]uint64{
	"dev": 0o755, "proc": 0o755, "sys": 0o755, "run": 0o755, "tmp": 0o1777, "mnt": 0o755, "root": 0o700, "home": 0o755, "home/user": 0o755, "var": 0o755, "var/lib": 0o755,
	"etc": 0o755, "usr": 0o755, "usr/bin": 0o755, "usr/sbin": 0o755, "usr/lib": 0o755, "usr/lib64": 0o755, "usr/lib/busybox": 0o755,
}
