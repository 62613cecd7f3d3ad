// Package package_test builds Debian's package, holds it against what it should be, and
// installs, upgrades, removes and purges it in a copy of this host.
package package_test

import (
	"debug/elf"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
)

const top = "../.."

// work is a directory for all tests.
var work string

func TestMain(m *testing.M) {
	var err error
	if work, err = os.MkdirTemp("", "lxcboot-package-"); err != nil {
		panic(err)
	}
	code := m.Run()
	os.RemoveAll(work)
	os.Exit(code)
}

// must runs a command at the top of the tree and gives what it says.
func must(t *testing.T, argv ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), argv[0], argv[1:]...)
	cmd.Dir = top
	cmd.Env = append(os.Environ(), "DPKG_DEB_COMPRESSOR_TYPE=gzip", "LC_ALL=C.UTF-8")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(argv, " "), err, out)
	}
	return string(out)
}

var built = sync.OnceValues(func() (string, error) {
	cmd := exec.Command("share/deb/build", "v0.1.0", work)
	cmd.Dir, cmd.Env = top, append(os.Environ(), "DPKG_DEB_COMPRESSOR_TYPE=gzip")
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	return strings.TrimSpace(string(out)), err
})

// deb is the package of version 0.1.0.
func deb(t *testing.T) string {
	t.Helper()
	path, err := built()
	if err != nil {
		t.Fatalf("the package cannot be built: %v", err)
	}
	return path
}

// unpacked is a directory with what the package has, and its control files in DEBIAN.
func unpacked(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "deb")
	must(t, "dpkg-deb", "-R", deb(t), dir)
	return dir
}

// TestLintian: Debian's own look at packages finds no error.
func TestLintian(t *testing.T) {
	must(t, "lintian", "--allow-root", "--fail-on", "error", deb(t))
}

// files are the files below a directory as they are called in an installed system.
func files(t *testing.T, dir string) []string {
	t.Helper()
	var all []string
	for path := range strings.Lines(must(t, "find", dir, "-path", dir+"/DEBIAN", "-prune", "-o", "!", "-type", "d", "-printf", "/%P %m\n")) {
		path = strings.TrimSpace(path)
		if strings.HasPrefix(path, "/lib/") { // the same as /usr/lib, since Debian 12
			path = "/usr" + path
		}
		all = append(all, strings.Replace(path, ".gz ", " ", 1))
	}
	slices.Sort(all)
	return all
}

// TestFiles: make install and the package have the same, but for what is Debian's own.
func TestFiles(t *testing.T) {
	dir := unpacked(t)
	into := t.TempDir()
	must(t, "make", "-s", "install", "DESTDIR="+into, "PREFIX=/usr", "ZSH=zsh/vendor-completions")
	installed, packaged := files(t, into), files(t, dir)
	for _, f := range installed {
		if !slices.Contains(packaged, f) {
			t.Errorf("make install has %s, and the package has not", f)
		}
	}
	own := regexp.MustCompile(`^/usr/share/(doc/lxcboot/(copyright|changelog\.Debian)|lintian/overrides/lxcboot) 644$`)
	for _, f := range packaged {
		if !slices.Contains(installed, f) && !own.MatchString(f) {
			t.Errorf("the package has %s, and make install has not", f)
		}
	}
	for _, f := range []string{"etc/lxcboot/config.yaml", "etc/libvirt/hooks/lxc.d/lxcboot", "usr/lib/ocf/resource.d/lxcboot/instance", "usr/share/lxcboot/slurm/smoke.sh", "usr/share/doc/lxcboot/changelog.Debian.gz", "usr/share/man/man1/lxcboot-boot.1.gz"} {
		if _, err := os.Stat(filepath.Join(dir, f)); err != nil {
			t.Error(err)
		}
	}
	if out, err := exec.Command("grep", "-rlE", "/usr/local/|@LXCBOOT@|@BIN@", dir+"/usr/share/lxcboot", dir+"/usr/lib", dir+"/lib", dir+"/etc").Output(); len(out) > 0 {
		t.Errorf("%v: these name what is elsewhere: %s", err, out)
	}
}

// TestPrograms: each program is at any address.
func TestPrograms(t *testing.T) {
	dir := unpacked(t)
	for _, name := range []string{"bin/lxcboot", "libexec/lxcboot/lxcboot-console", "libexec/lxcboot/lxcboot-copy", "libexec/lxcboot/lxcboot-init"} {
		f, err := elf.Open(filepath.Join(dir, "usr", name))
		if err != nil {
			t.Fatal(err)
		}
		flags, err := f.DynValue(elf.DT_FLAGS_1)
		if f.Type != elf.ET_DYN || err != nil || len(flags) == 0 || flags[0]&uint64(elf.DF_1_PIE) == 0 {
			t.Errorf("%s is %v, with the flags %x, %v", name, f.Type, flags, err)
		}
		f.Close()
	}
}

// TestControl: the files that an administrator changes are kept, and the scripts are sound,
// with what debhelper adds.
func TestControl(t *testing.T) {
	dir := unpacked(t)
	conffiles, err := os.ReadFile(dir + "/DEBIAN/conffiles")
	if got := strings.Fields(string(conffiles)); err != nil || !slices.Equal(got, []string{"/etc/libvirt/hooks/lxc.d/lxcboot", "/etc/lxcboot/config.yaml"}) {
		t.Errorf("conffiles: %q, %v", got, err)
	}
	must(t, "shellcheck", dir+"/DEBIAN/postinst", dir+"/DEBIAN/prerm", dir+"/DEBIAN/postrm")
	control, err := os.ReadFile(dir + "/DEBIAN/control")
	if err != nil {
		t.Fatal(err)
	}
	// What test/setup/install installs to run lxcboot, the package names, too.
	script, err := os.ReadFile(top + "/test/setup/install")
	if err != nil {
		t.Fatal(err)
	}
	_, host, _ := strings.Cut(string(script), "\nhost=(\n")
	host, _, _ = strings.Cut(host, "\n)")
	ofTests := []string{"squashfs-tools", "erofs-utils", "fdisk", "util-linux", "mount", "busybox-static"} // they make images, or are in every Debian
	for line := range strings.Lines(host) {
		line, _, _ = strings.Cut(line, "#")
		for _, name := range strings.Fields(line) {
			if !slices.Contains(ofTests, name) && !regexp.MustCompile(`[ ,]`+name+`\b`).Match(control) {
				t.Errorf("the package does not name %s, which test/setup/install installs", name)
			}
		}
	}
}

// TestVendorTarball: what is packed builds without a proxy.
func TestVendorTarball(t *testing.T) {
	tarball := strings.TrimSpace(must(t, "share/vendor-tarball", "v0.1.0", work))
	dir := t.TempDir()
	must(t, "tar", "-C", dir, "-xf", tarball)
	out := must(t, "env", "-C", dir+"/lxcboot-v0.1.0", "GOPROXY=off", "GOFLAGS=-buildvcs=false", "GOMODCACHE="+t.TempDir(), "test/setup/go", "build", "-o", dir+"/console", "./cmd/lxcboot-console")
	if _, err := os.Stat(dir + "/console"); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}
