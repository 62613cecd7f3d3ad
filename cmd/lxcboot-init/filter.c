// The system calls that a container may not make. What podman refuses is refused, but
// for what its init and unprivileged work in further namespaces need (mount, unshare,
// setns, ptrace, …), which a user namespace makes harmless. A list of what is allowed
// would have to follow each new C library; here only calls that are newer than the
// list are unknown, and answered like calls that the kernel does not have.
#define _GNU_SOURCE
#include "program.h"

#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <seccomp.h>
#include <sys/syscall.h>
#include <unistd.h>

static const char *const refused[] = {
	// the kernel itself
	"init_module", "finit_module", "delete_module", "create_module", "query_module", "get_kernel_syms",
	"kexec_load", "kexec_file_load", "bpf", "perf_event_open", "userfaultfd", "lookup_dcookie", "syslog", "acct",
	// the machine
	"iopl", "ioperm", "pciconfig_iobase", "pciconfig_read", "pciconfig_write", "s390_pci_mmio_read", "s390_pci_mmio_write",
	"swapon", "swapoff", "quotactl", "quotactl_fd", "migrate_pages", "move_pages",
	"settimeofday", "stime", "clock_settime", "clock_settime64",
	// files by numbers, which no mount bounds, and keys
	"open_by_handle_at", "add_key", "request_key",
	// what no program uses any more
	"_sysctl", "bdflush", "nfsservctl", "sysfs", "uselib", "ustat", "vm86", "vm86old",
};

// Programs that use these ask first whether the kernel has them.
static const char *const absent[] = { "io_uring_setup", "io_uring_enter", "io_uring_register" };

// NEWEST is the last call that the list was made with the knowledge of: file_setattr of
// Linux 6.17. From 424 on a call has the same number on all machines but a few.
#define NEWEST 469
#define X32 0x40000000

static int refuse(scmp_filter_ctx ctx, const char *name, int err)
{
	int call = seccomp_syscall_resolve_name(name);

	return call == __NR_SCMP_ERROR ? 0 : seccomp_rule_add(ctx, SCMP_ACT_ERRNO(err), call, 0);
}

static int refuse_listed(void)
{
	scmp_filter_ctx ctx = seccomp_init(SCMP_ACT_ALLOW);
	int err = -ENOMEM;

	if (!ctx)
		goto out;
	// Programs that raise privileges (sudo, ping) are a container's own matter.
	if ((err = seccomp_attr_set(ctx, SCMP_FLTATR_CTL_NNP, 0)))
		goto out;
	if ((err = seccomp_attr_set(ctx, SCMP_FLTATR_ACT_BADARCH, SCMP_ACT_ERRNO(ENOSYS))))
		goto out;
	// A filter is no reason to slow the container down, as kernels before 5.16 think.
	seccomp_attr_set(ctx, SCMP_FLTATR_CTL_SSB, 1);
	seccomp_attr_set(ctx, SCMP_FLTATR_CTL_OPTIMIZE, 2);
#if defined(__x86_64__)
	if ((err = seccomp_arch_add(ctx, SCMP_ARCH_X86)) || (err = seccomp_arch_add(ctx, SCMP_ARCH_X32)))
		goto out;
#elif defined(__aarch64__)
	if ((err = seccomp_arch_add(ctx, SCMP_ARCH_ARM)))
		goto out;
#endif
	for (size_t i = 0; i < sizeof refused / sizeof *refused; i++)
		if ((err = refuse(ctx, refused[i], EPERM)))
			goto out;
	for (size_t i = 0; i < sizeof absent / sizeof *absent; i++)
		if ((err = refuse(ctx, absent[i], ENOSYS)))
			goto out;
	err = seccomp_load(ctx);
out:
	seccomp_release(ctx);
	errno = -err;
	return err ? -1 : 0;
}

// refuse_newer is a filter of its own: libseccomp compares arguments, not numbers.
static int refuse_newer(void)
{
#if __NR_openat2 == 437
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
#if defined(__x86_64__)
		// x32 marks its calls, and has some of its own from 512 to 547.
		BPF_STMT(BPF_ALU | BPF_AND | BPF_K, ~X32),
		BPF_JUMP(BPF_JMP | BPF_JGT | BPF_K, 547, 2, 0),
		BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, 512, 2, 0),
#endif
		BPF_JUMP(BPF_JMP | BPF_JGT | BPF_K, NEWEST, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | ENOSYS),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog program = { sizeof code / sizeof *code, code };

	return syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_SPEC_ALLOW, &program);
#else
	return 0;
#endif
}

int load_filter(void)
{
	return refuse_newer() < 0 ? -1 : refuse_listed();
}
