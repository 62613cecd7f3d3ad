//go:build cluster

package cluster

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// long is passed over by make test.
func long(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("it takes minutes: make torture runs it")
	}
}

// lives is a script that says whether its root was used before, and stays.
const lives = `echo "used before: $(cat /used 2>/dev/null)"; echo yes >/used; trap "exit 0" TERM; echo up; while :; do sleep 1; done`

// ups waits until a job has been up so often, and sees that it met nothing of a former life. A job
// that Slurm has queued again waits two minutes there.
func (f *farm) ups(job string, n int) {
	f.t.Helper()
	f.WaitFor(2*limit, fmt.Sprintf("job %s is up for the %d. time", job, n), func() (bool, string) {
		out := f.output(job)
		return strings.Count("\n"+out, "\nup\n") == n, out + f.Hosts[0].Must("scontrol", "show", "job", job)
	})
	if out := f.output(job); strings.Contains(out, "used before: yes") {
		f.t.Errorf("job %s met what was its root before: %s", job, out)
	}
}

// cancel ends a job, and sees that nothing is left of it.
func (f *farm) cancel(job string) {
	f.t.Helper()
	f.Hosts[0].Must("scancel", job)
	f.nothing()
}

// TestSlurmArray: 200 jobs, of which no line is lost.
func TestSlurmArray(t *testing.T) {
	long(t)
	f := slurm(t)
	f.Hosts[0].Must("mkdir", "/srv/shared/out/array")
	const jobs, lines = 200, 300
	want := ""
	for i := range lines {
		want += fmt.Sprintf("line %d\n", i+1)
	}
	ended := func() (bool, string) {
		out := f.Hosts[0].Must("squeue", "--noheader")
		return out == "", out
	}
	begin := time.Now()
	f.submit(fmt.Sprintf("for i in $(seq %d); do echo line $i; done", lines), fmt.Sprintf("--array=1-%d", jobs), "--output=/srv/shared/out/array/%a")
	f.WaitFor(30*time.Minute, "all jobs have ended", ended)
	t.Logf("%d jobs on three hosts in %v", jobs, time.Since(begin).Round(time.Second))
	for i := range jobs {
		path := filepath.Join(f.Shared(), "out/array", fmt.Sprint(i+1))
		data, err := os.ReadFile(path)
		if got := strings.ReplaceAll(string(data), "\r\n", "\n"); err != nil || got != want {
			t.Errorf("output of job %d, with %d lines: %v\n%.400s", i+1, strings.Count(got, "\n"), err, got)
		}
	}
	f.nothing()

	// And what docs/cluster.md types.
	text, err := os.ReadFile("../../docs/cluster.md")
	if err != nil {
		t.Fatal(err)
	}
	_, block, _ := strings.Cut(string(text), "\nsmoke=")
	block, _, _ = strings.Cut(block, "\nsqueue")
	// Two jobs are submitted, and three containers say their names.
	if out := f.Hosts[0].Must("bash", "-euc", "cd /srv/shared/out\nsmoke="+block); strings.Count(out, "Submitted") != 2 || strings.Count(out, "slurm-203") != 3 {
		t.Errorf("what docs/cluster.md types prints\n%s", out)
	}
	f.WaitFor(30*time.Minute, "all jobs have ended", ended)
	if files, err := filepath.Glob(filepath.Join(f.Shared(), "out/slurm-*.out")); len(files) != 1+jobs {
		t.Errorf("what docs/cluster.md types makes %d files: %v", len(files), err)
	}
	f.nothing()
}

// TestSlurmHostDies: the job of a host that dies runs elsewhere, and the host that comes
// back has nothing of it.
func TestSlurmHostDies(t *testing.T) {
	long(t)
	f := slurm(t)
	job := f.submit(lives, "--exclude=n1")
	f.ups(job, 1)
	dead := f.Host(f.field(job, "BatchHost"))
	begin := time.Now()
	dead.Off()
	f.ups(job, 2)
	t.Logf("up elsewhere %v after the plug; of that Slurm waits 15 s for the host (SlurmdTimeout)", time.Since(begin).Round(100*time.Millisecond))
	if now := f.field(job, "BatchHost"); now == dead.Name {
		t.Errorf("the job is on %s, which is off", now)
	}
	dead.On()
	if out := dead.Must("lxcboot", "list", "-f", "value"); out != "" {
		t.Errorf("the host that came back has %s\n%s", out, dead.Console())
	}
	f.cancel(job)
	f.idle(3)
}

// TestSlurmRequeue: a job that is queued again on the same host meets nothing of its old
// life: when it was told to end, when its host died, and when Slurm's part of it was killed
// and its container was not.
func TestSlurmRequeue(t *testing.T) {
	long(t)
	f := slurm(t)
	n1, n2 := f.Hosts[0], f.Hosts[1]
	job := f.submit(lives, "--nodelist=n2")
	f.ups(job, 1)
	n1.Must("scontrol", "requeue", job)
	f.ups(job, 2)

	n2.Off()
	f.Wait("Slurm has seen that n2 is dead", func() (bool, string) {
		out := n1.Must("sinfo", "-h", "-n", "n2", "-o", "%t")
		return strings.HasPrefix(out, "down"), out
	})
	n2.On()
	f.ups(job, 3)

	id := n2.Must("virsh", "-q", "-c", "lxc:///", "list", "--uuid")
	n2.Must("pkill", "-KILL", "-x", "slurmd|slurmstepd|lxcboot")
	f.Wait("Slurm has seen that n2 does not answer", func() (bool, string) {
		out := n1.Must("sinfo", "-h", "-n", "n2", "-o", "%t")
		return strings.HasPrefix(out, "down"), out
	})
	if now := n2.Must("virsh", "-q", "-c", "lxc:///", "list", "--uuid"); now != id {
		t.Fatalf("the container has ended with its job: %q, not %q", now, id)
	}
	n2.Must("slurmd", "-N", "n2")
	f.ups(job, 4)
	f.cancel(job)
	f.idle(3)
}

// TestSlurmLibvirtd: a host without libvirtd gets no more jobs, and what it could not delete
// goes once libvirtd is back.
func TestSlurmLibvirtd(t *testing.T) {
	long(t)
	f := slurm(t)
	n1, n2 := f.Hosts[0], f.Hosts[1]
	drained := func() {
		t.Helper()
		f.Wait("n2 is drained", func() (bool, string) {
			out := n1.Must("sinfo", "-h", "-n", "n2", "-o", "%t %E")
			return strings.HasPrefix(out, "drain"), out
		})
		t.Logf("n2: %s", n1.Must("sinfo", "-h", "-n", "n2", "-o", "%t %E"))
	}
	mend := func() {
		t.Helper()
		n2.Must("bash", "/run/cluster/libvirtd")
		n1.Must("scontrol", "update", "NodeName=n2", "State=RESUME")
		f.idle(3)
	}

	// It dies below a job.
	job := f.submit(lives, "--nodelist=n2")
	f.ups(job, 1)
	n2.Must("pkill", "-KILL", "-x", "libvirtd")
	n1.Must("scancel", job)
	drained()
	mend()
	f.nothing()

	// It is away when a job comes.
	n2.Must("pkill", "-KILL", "-x", "libvirtd")
	job = f.submit("echo hello", "--nodelist=n2")
	drained()
	n1.Must("scancel", job)
	job = f.submit("echo hello")
	f.says(job, "hello")
	mend()
	f.nothing()
}

// TestSlurmSlowStop: a container that does not end when it is asked to is ended by lxcboot,
// before Slurm kills lxcboot.
func TestSlurmSlowStop(t *testing.T) {
	long(t)
	f := slurm(t)
	job := f.submit(`trap "echo asked to end" TERM; echo up; while :; do sleep 1; done`)
	f.says(job, "up")
	begin := time.Now()
	f.Hosts[0].Must("scancel", job)
	f.nothing()
	t.Logf("gone %v after scancel", time.Since(begin).Round(100*time.Millisecond))
	if out := f.output(job); !strings.Contains(out, "\nasked to end\n") {
		t.Errorf("what the container said when it was stopped is lost: %q", out)
	}
	f.idle(3)
}
