package lxc

import (
	"os"
	"testing"
	"time"

	"github.com/lxcboot/lxcboot/pkg/cgroup"
)

// One that has no handlers yet is asked until it has: right after its start, no init has.
func TestShutdownEarly(t *testing.T) {
	defer func(was time.Duration) { deafLimit = was }(deafLimit)
	deafLimit = time.Minute
	h := open(t)
	for name, change := range map[string]func(*box){
		"busybox": func(*box) {},
		"another": func(c *box) {
			c.Init, c.InitArgs = "/bin/sh", []string{"-c", "/bin/sleep 1; trap 'exit 0' TERM; while :; do /bin/sleep 0.1; done"}
		},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := config(t, "")
			change(&cfg)
			define(t, h, cfg)
			cfg.mount(t)
			_, err := h.Start(limited(t), cfg.UUID)
			must(t, err)
			must(t, h.Shutdown(limited(t), cfg.UUID))
			if info, err := h.State(limited(t), cfg.UUID); err != nil || info.State != Shutoff || info.Reason != "shutdown" {
				t.Errorf("%+v, %v", info, err)
			}
		})
	}
}

// One that heard and does not end is asked again.
func TestShutdownAgain(t *testing.T) {
	defer func(was time.Duration) { remind = was }(remind)
	remind = 100 * time.Millisecond
	h := open(t)
	cfg := config(t, "")
	compile(t, cfg.Root, "systemd")
	cfg.Init = "/bin/systemd"
	define(t, h, cfg)
	up(t, h, cfg)
	must(t, h.Shutdown(within(t, time.Minute), cfg.UUID))
	if info, err := h.State(limited(t), cfg.UUID); err != nil || info.State != Shutoff {
		t.Errorf("%+v, %v", info, err)
	}
}

// systemd that does not see the end of a unit is told to look, and not before it had time.
func TestShutdownStuck(t *testing.T) {
	if groups, err := cgroup.Of(os.Getpid()); err != nil || groups["name=systemd"] == "" {
		t.Skip("systemd sees the end of a unit where control groups are of version 2")
	}
	defer func(was time.Duration) { remind = was }(remind)
	remind = 100 * time.Millisecond
	h := open(t)
	cfg := config(t, "")
	compile(t, cfg.Root, "systemd")
	cfg.Init, cfg.InitArgs = "/bin/systemd", []string{"stuck"}
	define(t, h, cfg)
	up(t, h, cfg)
	must(t, h.Shutdown(within(t, time.Minute), cfg.UUID))
	if info, err := h.State(limited(t), cfg.UUID); err != nil || info.State != Shutoff {
		t.Errorf("%+v, %v", info, err)
	}
}
