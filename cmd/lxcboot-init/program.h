#ifndef LXCBOOT_INIT_H
#define LXCBOOT_INIT_H

#include <stddef.h>

// Orders are texts, each with a zero byte at its end, in the order in which they are
// taken. A list is its length and then its texts. pkg/lxc/launch.go writes them.
struct orders {
	char *next, *end;
};

int read_orders(struct orders *o, int fd);    // -1 and errno when they cannot be read
char *text(struct orders *o);
unsigned long long number(struct orders *o);
char **list(struct orders *o);                // NULL at its end
_Noreturn void malformed(void);               // text, number and list end here too

int write_file(const char *path, const char *text);
void reset_signals(void);

// load_filter refuses the calls that a container has no use for; 0, or -1 and errno.
int load_filter(void);

_Noreturn void run_init(void);
_Noreturn void run_enter(void);

#endif
