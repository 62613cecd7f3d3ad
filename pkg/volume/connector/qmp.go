package connector

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"strconv"
	"time"
)

// args are the arguments of a QMP command, a block node's options among them.
type args map[string]any

// qmp is a connection to the control socket of a qemu-storage-daemon. What is
// said over it, secrets among it, reaches no argument list and no file.
type qmp struct {
	conn net.Conn
	in   *json.Decoder
}

// qmpError is the daemon's own refusal of a command.
type qmpError struct {
	Class string `json:"class"`
	Desc  string `json:"desc"`
}

func (e *qmpError) Error() string { return e.Desc }

// dialQMP connects to the socket named qmpSocket in dir. It goes through an open
// directory, since a socket's path may have no more than 107 bytes.
func dialQMP(ctx context.Context, dir string) (*qmp, error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "unix", "/proc/self/fd/"+strconv.Itoa(int(d.Fd()))+"/"+qmpSocket)
	if err != nil {
		return nil, err
	}
	q := &qmp{conn: conn, in: json.NewDecoder(bufio.NewReader(conn))}
	stop := q.limit(ctx)
	defer stop()
	var greeting map[string]any
	if err := q.in.Decode(&greeting); err != nil {
		conn.Close()
		return nil, fmt.Errorf("no greeting from qemu-storage-daemon: %w", err)
	}
	if _, err := q.do(ctx, "qmp_capabilities", nil); err != nil {
		conn.Close()
		return nil, err
	}
	return q, nil
}

func (q *qmp) Close() error { return q.conn.Close() }

// limit ends every read and write when ctx does.
func (q *qmp) limit(ctx context.Context) (stop func() bool) {
	return context.AfterFunc(ctx, func() { q.conn.SetDeadline(time.Unix(1, 0)) })
}

// do runs one command and returns its result; a refusal is a *qmpError.
func (q *qmp) do(ctx context.Context, command string, a args) (json.RawMessage, error) {
	stop := q.limit(ctx)
	defer stop()
	b, err := json.Marshal(struct {
		Execute   string `json:"execute"`
		Arguments args   `json:"arguments,omitempty"`
	}{command, a})
	if err != nil {
		return nil, err
	}
	if _, err := q.conn.Write(append(b, '\n')); err != nil {
		return nil, q.broken(ctx, command, err)
	}
	for {
		var reply struct {
			Return json.RawMessage `json:"return"`
			Error  *qmpError       `json:"error"`
		}
		if err := q.in.Decode(&reply); err != nil {
			return nil, q.broken(ctx, command, err)
		}
		switch { // events are neither
		case reply.Error != nil:
			return nil, reply.Error
		case reply.Return != nil:
			return reply.Return, nil
		}
	}
}

func (q *qmp) broken(ctx context.Context, command string, err error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("qemu-storage-daemon gave no answer to %s: %w", command, context.Cause(ctx))
	}
	return fmt.Errorf("qemu-storage-daemon broke off at %s: %w", command, err)
}
