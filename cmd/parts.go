package cmd

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/spf13/viper"

	"github.com/lxcboot/lxcboot/pkg/doctor"
	"github.com/lxcboot/lxcboot/pkg/durable"
	"github.com/lxcboot/lxcboot/pkg/failure"
	"github.com/lxcboot/lxcboot/share"
)

// part is a file by which libvirt, systemd, udev or the kernel know of lxcboot.
type part struct {
	name    string // for doctor and setup --check
	path    string // where setup puts it
	shipped string // where make install and the package have it; empty: at path
	text    string
	mode    os.FileMode
	then    string // how it comes into use
}

const (
	hookPath = "/etc/libvirt/hooks/lxc.d/lxcboot"
	lxcfsDir = unitDir + "/lxcfs.service.d"

	hookPart, linkPart, lxcfsPart = "libvirt hook", "udev", "lxcfs"
)

// parts are all of them. Each goes from share to two places.
func (a *App) parts() ([]part, error) {
	words, err := a.unattended()
	if err != nil {
		return nil, err
	}
	for _, w := range words {
		if strings.ContainsAny(w, "'\"\\$\n") {
			return nil, failure.Invalid("%q cannot be written into the hook and the unit: it has a quote, a $, a \\ or a newline in it", w)
		}
	}
	lib := filepath.Join(filepath.Dir(words[0]), "../lib")
	systemd := strings.ReplaceAll(quoted(words), "%", "%%")
	return []part{
		{hookPart, hookPath, "", share.Text("libvirt/hook", quoted(words)), 0o755, "restart libvirtd for it to be noticed"},
		{"start of the host", unitDir + "/" + bootUnit, filepath.Join(lib, "systemd/system", bootUnit), share.Text("systemd/lxcboot.service", systemd), 0o644, "switch it on with systemctl enable --now lxcboot.service"},
		{"trimming", unitDir + "/lxcboot-trim.service", filepath.Join(lib, "systemd/system/lxcboot-trim.service"), share.Text("systemd/lxcboot-trim.service", systemd), 0o644, "the timer starts it"},
		// Its text is in weekPath whoever wrote it, as it names no program.
		{"weekly", weekPath, filepath.Join(lib, "systemd/system", weekUnit), share.Text("systemd/lxcboot-trim.timer", ""), 0o644, "systemctl daemon-reload, and systemctl enable --now lxcboot-trim.timer"},
		// Before systemd's 99-default, and behind an administrator's.
		{linkPart, "/etc/systemd/network/98-lxcboot.link", filepath.Join(lib, "systemd/network/98-lxcboot.link"), share.Text("systemd/98-lxcboot.link", ""), 0o644, "udev reads it by itself"},
		{lxcfsPart, lxcfsDir + "/lxcboot.conf", filepath.Join(lib, "systemd/system/lxcfs.service.d/lxcboot.conf"), share.Text("systemd/lxcfs.conf", systemd), 0o644, "systemctl daemon-reload"},
		{"limits of the kernel", "/etc/sysctl.d/98-lxcboot.conf", filepath.Join(lib, "sysctl.d/98-lxcboot.conf"), share.Text("sysctl.conf", ""), 0o644, "sysctl --system"},
	}, nil
}

// part is the one of a name.
func (a *App) part(name string) (part, error) {
	parts, err := a.parts()
	if err != nil {
		return part{}, err
	}
	return parts[slices.IndexFunc(parts, func(p part) bool { return p.name == name })], nil
}

// inPlace gives the file that counts. The error is a doctor.Problem.
func (p part) inPlace() (string, error) {
	path := p.path
	data, err := os.ReadFile(path)
	if err != nil && p.shipped != "" {
		path = p.shipped
		data, err = os.ReadFile(path)
	}
	switch {
	case err != nil:
		return "", &doctor.Problem{Status: doctor.Warning, Detail: p.path + " is not installed", Mend: "lxcboot setup"}
	case string(data) != p.text:
		return "", &doctor.Problem{Status: doctor.Warning, Detail: path + " is of another lxcboot or of other settings", Mend: "lxcboot setup"}
	}
	return path, nil
}

// shippedRight says whether what was shipped is in use, and is for this program with these
// settings.
func (p part) shippedRight() bool {
	path, err := p.inPlace()
	return err == nil && path == p.shipped
}

// packaged says whether this program came with units of its own.
func (a *App) packaged() bool {
	exe, err := os.Executable()
	if err != nil {
		return false
	}
	data, err := os.ReadFile(filepath.Join(filepath.Dir(exe), "../lib/systemd/system", bootUnit))
	return err == nil && string(data) == share.Text("systemd/lxcboot.service", exe)
}

// restoreHook gives a hook the text that it was shipped with.
func (a *App) restoreHook(hook part) error {
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	if _, err := os.Lstat(hook.path); err != nil {
		return nil // the administrator removed it
	}
	return durable.WriteFile(hook.path, []byte(share.Text("libvirt/hook", exe)), hook.mode)
}

// unattended is this program as libvirt's hook and the units start it, without this shell's
// variables: with those of the settings that are not what it would have by itself.
func (a *App) unattended() ([]string, error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, err
	}
	words := []string{exe}
	if a.config != "" {
		path, err := filepath.Abs(a.config)
		if err != nil {
			return nil, err
		}
		words = append(words, "--config", path)
	}
	plain := viper.New()
	plain.SetConfigType("yaml")
	if err := plain.ReadConfig(bytes.NewReader(a.configured)); err != nil {
		return nil, err
	}
	has := map[string]string{"state-dir": a.settings.StateDir, "run-dir": a.settings.RunDir, "connect": a.settings.Connect, "host-id": a.settings.HostID}
	for _, s := range settings {
		plain.SetDefault(s.key, s.value)
		if value, ok := has[s.key]; ok && value != fmt.Sprint(plain.Get(s.key)) {
			words = append(words, "--"+s.key, value)
		}
	}
	return words, nil
}

var plainWord = regexp.MustCompile(`^[A-Za-z0-9/._:=+-]+$`)

// quoted are words as a shell and systemd both read them.
func quoted(words []string) string {
	var all []string
	for _, w := range words {
		if !plainWord.MatchString(w) {
			w = "'" + w + "'"
		}
		all = append(all, w)
	}
	return strings.Join(all, " ")
}
