package doctor

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/lxcboot/lxcboot/pkg/host"
)

// lvmDevices lists the disks that LVM may look at, where it is told to heed it.
const lvmDevices = "/etc/lvm/devices/system.devices"

// lvm looks whether the host's LVM is kept from what is on containers' volumes: it activates
// each volume group that it sees, and then holds the volume.
func lvm(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	path, err := exec.LookPath("lvmconfig")
	if err != nil {
		return "not installed", nil
	}
	cmd := exec.CommandContext(ctx, path, "--type", "full", "devices")
	cmd.Env = append(os.Environ(), "LVM_SUPPRESS_FD_WARNINGS=1")
	out, err := cmd.Output()
	if err != nil {
		return "", warning("mend /etc/lvm/lvm.conf", "LVM cannot say what it looks at: %v", err)
	}
	settings := lvmSettings(string(out))
	for _, name := range []string{"global_filter", "filter"} {
		if rejectsTheRest(settings[name]) {
			return fmt.Sprintf("looks only at what its %s names", name), nil
		}
	}
	if _, err := os.Stat(lvmDevices); err == nil && settings["use_devicesfile"] == "1" {
		return "looks only at what " + lvmDevices + " names", nil
	}
	example, _ := host.Docs("transports.md")
	return "", warning("set devices/global_filter in /etc/lvm/lvm.conf: "+example+" shows one",
		"looks at every disk, and activates volume groups that it sees on containers' volumes: a volume is held by that until its detach")
}

// lvmSettings reads what lvmconfig prints, a setting a line.
func lvmSettings(out string) map[string]string {
	settings := map[string]string{}
	for line := range strings.Lines(out) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok {
			settings[name] = value
		}
	}
	return settings
}

// rejectsTheRest says whether the last pattern of a filter rejects what none before it
// was for, as "r|.*|" does.
func rejectsTheRest(filter string) bool {
	patterns := strings.Split(strings.Trim(filter, "[]"), ",")
	last := strings.Trim(patterns[len(patterns)-1], `" `)
	return len(last) > 2 && last[0] == 'r' && last[2:len(last)-1] == ".*"
}
