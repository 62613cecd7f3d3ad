package host

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"
)

// RAMDisk makes a disk in memory of a size in bytes: a block device that is no loop device,
// of which nothing stays but what is on it. remove waits until whoever had it has let go.
// The error is os.ErrNotExist where the kernel has no such disks.
func RAMDisk(size int64) (path string, remove func() error, err error) {
	const control = "/sys/class/zram-control/"
	if _, err := os.Stat(control); err != nil {
		_ = exec.Command("modprobe", "zram").Run()
	}
	number, err := os.ReadFile(control + "hot_add") // which makes one
	if err != nil {
		return "", nil, err
	}
	name := "zram" + strings.TrimSpace(string(number))
	remove = func() (err error) {
		for range 100 {
			if err = os.WriteFile(control+"hot_remove", number, 0); err == nil {
				return nil
			}
			time.Sleep(100 * time.Millisecond)
		}
		return fmt.Errorf("/dev/%s is left: %w", name, err)
	}
	if err := os.WriteFile("/sys/block/"+name+"/disksize", []byte(fmt.Sprint(size)), 0); err != nil {
		return "", nil, fmt.Errorf("%w, and removing it: %v", err, remove())
	}
	return "/dev/" + name, remove, nil
}
