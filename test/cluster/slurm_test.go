//go:build cluster

package cluster

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// smoke is the script of the product that is a job of Slurm.
const smoke = "/usr/local/share/lxcboot/slurm/smoke.sh"

// container are the options of lxcboot run for a container from a volume of its own, in
// which sh runs a script.
func container(script string) []string {
	return []string{"--image", "busybox", "--boot-from-volume", "1", "--delete-on-termination", "--nic", "none",
		"--init", "/bin/sh", "--init-arg", "-c", "--init-arg", script}
}

// A farm is a cluster with Slurm. n1 has the controller.
type farm struct {
	*Cluster
	t *testing.T
}

// slurm starts three hosts with Slurm, and waits until all take jobs.
func slurm(t *testing.T) *farm {
	f := &farm{Up(t, 3, "store", "libvirtd", "slurm"), t}
	t.Cleanup(func() {
		if t.Failed() {
			for _, h := range f.Hosts {
				if h.IsOn() {
					_, log := h.Run(context.WithoutCancel(t.Context()), "sh", "-c", "tail -n 60 /var/log/slurm/*")
					t.Logf("Slurm on %s:\n%s", h.Name, log)
				}
			}
		}
	})
	f.Image()
	n1 := f.Hosts[0]
	n1.Must("lxcboot", "image", "import", "/srv/shared/busybox.raw", "--name", "busybox")
	n1.Must("mkdir", "/srv/shared/out")
	f.idle(3)
	return f
}

// idle waits until so many hosts have nothing to do and take jobs.
func (f *farm) idle(n int) {
	f.t.Helper()
	f.Wait(fmt.Sprintf("%d hosts take jobs", n), func() (bool, string) {
		_, out := f.Hosts[0].Run(f.t.Context(), "sinfo", "-h", "-N", "-o", "%N %t %E")
		return strings.Count(out, " idle ") == n, out
	})
}

// submit submits a job in a directory of the hosts, and gives its id. Its output is in
// /srv/shared/out/ID.
func (f *farm) submit(script string, options ...string) string {
	f.t.Helper()
	words := append([]string{"m1.tiny", "--parsable", "--output=/srv/shared/out/%j", "--open-mode=append"}, options...)
	words = append(append(words, "--"), container(script)...)
	return f.Hosts[0].Must(append([]string{smoke}, words...)...)
}

// field is what Slurm says of a job.
func (f *farm) field(job, name string) string {
	f.t.Helper()
	out := f.Hosts[0].Must("scontrol", "show", "job", "--oneliner", job)
	if m := regexp.MustCompile(`(?:^| )` + name + `=(\S*)`).FindStringSubmatch(out); m != nil {
		return m[1]
	}
	f.t.Fatalf("Slurm says no %s of job %s: %s", name, job, out)
	return ""
}

// until waits until a job has a state.
func (f *farm) until(job, state string) {
	f.t.Helper()
	f.Wait("job "+job+" is "+state, func() (bool, string) {
		out := f.Hosts[0].Must("scontrol", "show", "job", job)
		return strings.Contains(out, "JobState="+state+" "), out
	})
}

// says waits until a job's output has a line.
func (f *farm) says(job, line string) {
	f.t.Helper()
	f.Wait("job "+job+" says "+line, func() (bool, string) {
		out := f.output(job)
		return strings.Contains("\n"+out, "\n"+line+"\n"), out
	})
}

func (f *farm) output(job string) string {
	data, err := os.ReadFile(filepath.Join(f.Shared(), "out", job))
	if err != nil {
		return err.Error()
	}
	return strings.ReplaceAll(string(data), "\r\n", "\n")
}

// nothing waits until no job is left, and sees that no host has anything of one.
func (f *farm) nothing() {
	f.t.Helper()
	f.Wait("no job is left, nor anything of one", func() (bool, string) {
		if out := f.Hosts[0].Must("squeue", "--noheader"); out != "" {
			return false, out
		}
		left := f.Hosts[0].Must("lxcboot", "volume", "list", "-f", "value")
		for _, h := range f.Hosts {
			if h.IsOn() {
				left += h.Must("sh", "-c", "lxcboot list -f value; virsh -q -c lxc:/// list --all; pgrep -a lxcboot; find /sys/fs/cgroup -name '*lxc*'")
			}
		}
		return strings.TrimSpace(left) == "", left
	})
}

// TestSlurm: containers as jobs, on hosts where nothing dies.
func TestSlurm(t *testing.T) {
	f := slurm(t)
	n1 := f.Hosts[0]

	// srun: one command, a container on each of three hosts.
	words := append([]string{"srun", "--quiet", "--nodes=3", "--ntasks-per-node=1", "--mem=512", smoke, "--job", "m1.tiny"}, container("echo hello")...)
	if out := strings.ReplaceAll(n1.Must(words...), "\r", ""); out != "hello\nhello\nhello" {
		t.Errorf("srun on three hosts prints %q", out)
	}
	f.nothing()

	// The job has what the flavor has, and the container's output and exit code.
	job := f.submit("echo hello; exit 3")
	f.until(job, "FAILED")
	if out := f.output(job); out != "hello\n" {
		t.Errorf("the job's output is %q", out)
	}
	if got := f.field(job, "ExitCode") + " " + f.field(job, "TRES"); !strings.HasPrefix(got, "3:0 cpu=1,mem=512M,") {
		t.Errorf("the job ended with, and had: %s", got)
	}

	// scancel stops the container as lxcboot stop does.
	job = f.submit(`trap "echo asked to end; exit 0" TERM; echo up; while :; do sleep 1; done`)
	f.says(job, "up")
	n1.Must("scancel", job)
	f.until(job, "CANCELLED")
	f.nothing()
	if out := f.output(job); !strings.Contains(out, "\nasked to end\n") {
		t.Errorf("what the container said when it was stopped is lost: %q", out)
	}

	// What is killed while it stops its container leaves it to the epilog.
	job = f.submit(`trap "echo asked to end" TERM; echo up; while :; do sleep 1; done`)
	f.says(job, "up")
	n1.Must("scancel", job)
	f.says(job, "asked to end")
	host := f.Host(f.field(job, "BatchHost"))
	host.Must("pkill", "-KILL", "-x", "lxcboot")
	f.nothing()
	f.idle(3)
}
