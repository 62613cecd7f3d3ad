package rootfs

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/lxcboot/lxcboot/pkg/tty"
)

// maxMessages is how many of the kernel's messages about a failure are kept.
const maxMessages = 4

// klog reads what the kernel logs about one device from now on. Most drivers say
// there, and not in the mount context, what is wrong with a filesystem.
type klog struct {
	f      *os.File // nil: not to be had
	device string
}

func kernelLog(device string) klog {
	// By its descriptor and not through os.File's poller, which would wait.
	fd, err := unix.Open("/dev/kmsg", unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return klog{}
	}
	if _, err := unix.Seek(fd, 0, unix.SEEK_END); err != nil {
		unix.Close(fd)
		return klog{}
	}
	return klog{os.NewFile(uintptr(fd), "/dev/kmsg"), device}
}

func (k klog) close() {
	if k.f != nil {
		k.f.Close()
	}
}

// messages are those that name the device: "EXT4-fs (loop3): …".
func (k klog) messages() (all []string) {
	if k.f == nil {
		return nil
	}
	buf := make([]byte, 8192)
	for range 1024 {
		n, err := unix.Read(int(k.f.Fd()), buf)
		if errors.Is(err, unix.EPIPE) { // overwritten while it was read
			continue
		}
		if err != nil || n <= 0 {
			break
		}
		_, text, ok := strings.Cut(string(buf[:n]), ";")
		text, _, _ = strings.Cut(text, "\n")
		words := strings.FieldsFunc(text, func(r rune) bool { return strings.ContainsRune(" ():,/", r) })
		if ok && slices.Contains(words, k.device) {
			all = append(all, tty.Line(text))
		}
	}
	return all
}

// explain makes a sentence of a failed mount, of what the mount context and the
// kernel's log say.
func explain(fd int, log klog, fsys Filesystem, err error) error {
	said := contextMessages(fd)
	if len(said) == 0 {
		said = log.messages()
	}
	said = said[:min(len(said), maxMessages)]
	because := because(said)
	switch {
	case fsys.Type == "btrfs" && (errors.Is(err, unix.EEXIST) || errors.Is(err, unix.EBUSY)):
		return fmt.Errorf("another btrfs with the same UUID %s is mounted, such as another volume of the same image, and this kernel mounts one of them at a time (%w); unmount that, or give this one a new UUID with btrfstune -u%s", fsys.UUID, err, because)
	case errors.Is(err, unix.EBUSY):
		return fmt.Errorf("it is already in use, by another mount or program (%w)%s", err, because)
	case errors.Is(err, unix.EUCLEAN), errors.Is(err, unix.EINVAL), errors.Is(err, unix.EIO), errors.Is(err, unix.EBADMSG):
		return fmt.Errorf("the filesystem is damaged, or has features that this kernel does not know (%w)%s", err, because)
	}
	return fmt.Errorf("%w%s", err, because)
}

func because(said []string) string {
	if len(said) == 0 {
		return ""
	}
	return ": the kernel says: " + strings.Join(said, "; ")
}

// contextMessages are those of a mount context, each after its level: e, w or i.
func contextMessages(fd int) (all []string) {
	buf := make([]byte, 1024)
	for range 16 {
		n, err := unix.Read(fd, buf)
		if err != nil || n <= 0 {
			break
		}
		line := strings.TrimSpace(string(buf[:n]))
		if len(line) > 2 && line[1] == ' ' {
			line = line[2:]
		}
		all = append(all, tty.Line(line))
	}
	return all
}
