package lxc

import "testing"

func TestCgroupPaths(t *testing.T) {
	for _, tt := range []struct{ a, b, want string }{
		{"/machine/lxc-1-x.libvirt-lxc", "/machine/lxc-1-x.libvirt-lxc/init.scope", "/machine/lxc-1-x.libvirt-lxc"},
		{"/machine.slice/machine-lxc\\x2d1.scope", "/machine.slice/machine-lxc\\x2d1.scope", "/machine.slice/machine-lxc\\x2d1.scope"},
		{"/machine/ab", "/machine/abc", "/machine"}, {"/", "/x", "/"}, {"/x", "", "/"},
	} {
		if got := commonPath(tt.a, tt.b); got != tt.want {
			t.Errorf("%q and %q: %q", tt.a, tt.b, got)
		}
	}
	got := parseMembership("4:memory:/a\n2:cpu,cpuacct:/b:c (deleted)\n1:name=systemd:/\n0::/u\nrubbish\n")
	want := map[string]string{"memory": "/a", "cpu,cpuacct": "/b:c", "name=systemd": "/", "": "/u"}
	for k, v := range want {
		if got[k] != v || len(got) != len(want) {
			t.Errorf("%q", got)
		}
	}
}

// Version 2 is not on every host that runs the tests: its files are made here.
func TestUsageV2(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"memory.current": "4096\n", "memory.max": "67108864\n", "cpu.stat": "usage_usec 1500\nuser_usec 1000\n",
		"cpu.max": "200000 100000\n", "pids.current": "7\n",
		"io.stat": "8:0 rbytes=10 wbytes=20 rios=1 wios=1 dbytes=0 dios=0\n7:1 rbytes=1 wbytes=2\n",
	} {
		writeFile(t, dir+"/"+name, text)
	}
	got := readUsage([]cgroup{{dir: dir}})
	if want := (Usage{4096, 64 << 20, 1500_000, 2, 11, 22, 7}); got != want {
		t.Errorf("%+v", got)
	}
	writeFile(t, dir+"/memory.max", "max\n")
	writeFile(t, dir+"/cpu.max", "max 100000\n")
	if got := readUsage([]cgroup{{dir: dir}}); got.MemoryLimit != -1 || got.CPULimit != -1 {
		t.Errorf("%+v", got)
	}
	if got := readUsage(nil); got != (Usage{-1, -1, -1, -1, -1, -1, -1}) {
		t.Errorf("%+v", got)
	}
}
