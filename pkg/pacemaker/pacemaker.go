// Package pacemaker asks the Pacemaker cluster of this host, by its command line tools: is
// the host gone that has a volume?
package pacemaker

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"

	"github.com/lxcboot/lxcboot/pkg/failure"
)

// ErrUp is the kind of a host of which the cluster does not say that it is gone.
var ErrUp = errors.New("the host is not known to be gone")

// attribute is a transient attribute of each node: in which start it is. The cluster drops
// it with the node.
const attribute = "lxcboot-start"

// A Start is one start of a host.
type Start struct {
	Name         string // of the host, and of its node
	Host, BootID string // ids
}

func (s Start) value() string { return s.Host + "/" + s.BootID }

// Publish tells the cluster in which start this host is.
func Publish(ctx context.Context, s Start) error {
	_, err := run(ctx, "attrd_updater", "-n", attribute, "-U", s.value())
	return err
}

// Gone says why that start of a host is over, as the cluster sees it: the host is a node of
// it, and either not up, or up and says that it is in another start. Pacemaker starts nothing of a
// node that it lost before that was fenced, so that no more has to be asked. Else the error
// is ErrUp.
func Gone(ctx context.Context, s Start) (why string, err error) {
	out, err := run(ctx, "crm_node", "-l")
	if err != nil {
		return "", err
	}
	up, known := nodes(out)[s.Name]
	switch {
	case !known:
		return "", failure.Of(ErrUp, "the host %q is no node of this cluster, so that nobody has fenced it", s.Name)
	case !up:
		return "the cluster has lost it", nil
	case s.BootID == "":
		return "", failure.Of(ErrUp, "the host %s is up, and whether it was started anew since cannot be told", s.Name)
	}
	// It is up: the one that was fenced, started anew, or one that never went.
	if out, err = run(ctx, "attrd_updater", "-n", attribute, "-Q", "-A"); err != nil {
		return "", err
	}
	switch now := starts(out)[s.Name]; now {
	case "":
		return "", failure.Of(ErrUp, "the host %s is up, and does not say whether it was started anew since", s.Name)
	case s.value():
		return "", failure.Of(ErrUp, "the host %s is up, and was not started anew since: see 'lxcboot list' there", s.Name)
	}
	return "it was started anew since", nil
}

// nodes reads "1 n1 member" or "2 n2 lost", a line each: which nodes there are, and are up.
func nodes(out []byte) map[string]bool {
	all := map[string]bool{}
	for line := range strings.Lines(string(out)) {
		if words := strings.Fields(line); len(words) >= 2 {
			all[words[1]] = len(words) < 3 || words[2] != "lost"
		}
	}
	return all
}

var quoted = regexp.MustCompile(`host="([^"]*)" value="([^"]*)"`)

// starts reads name="…" host="…" value="…", a line for each node that is up, by the host.
func starts(out []byte) map[string]string {
	all := map[string]string{}
	for _, m := range quoted.FindAllSubmatch(out, -1) {
		all[string(m[1])] = string(m[2])
	}
	return all
}

// run gives what a tool of Pacemaker's prints.
func run(ctx context.Context, name string, args ...string) ([]byte, error) {
	var said bytes.Buffer
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Stderr = &said
	// Of an agent's environment attrd_updater takes which node is meant, against -A.
	cmd.Env = slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "OCF_") })
	out, err := cmd.Output()
	if err != nil {
		err = fmt.Errorf("the cluster cannot be asked: %s: %w: %s", name, err, bytes.TrimSpace(said.Bytes()))
	}
	return out, err
}
