// A passing word at the page's foot, with an undo where there is one.

import { notices } from "../state/app";
import { t } from "../texts";
import { Icon } from "./parts";

export function ToastView() {
  const { value: toast } = notices.toast;
  if (toast === null) return null;
  return (
    <div class="toast" data-testid="toast">
      <span>{toast.text}</span>
      {toast.undo === undefined ? null : (
        <button type="button" class="link" data-testid="undo" onClick={() => notices.undo()}>
          {t("undo")}
        </button>
      )}
      <button type="button" class="quiet" aria-label={t("dismiss")} onClick={() => notices.dismiss()}>
        <Icon name="close" />
      </button>
    </div>
  );
}
